// WebSockets of `ws` and of Node itself: through the proxy, and through the gateway if there is one.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS + "/");
const { WebSocket: Ws } = require("ws");
const { HttpsProxyAgent } = await import(require.resolve("https-proxy-agent"));

const key = process.env.OPENAI_API_KEY;
const gateway = process.env.GATEWAY;
const url = (gateway ? gateway + "/openai" : "wss://api.openai.com") + "/v1/realtime?model=m";

function talk(socket) {
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send("hello ".repeat(100));
    socket.onerror = (event) => reject(event.error ?? new Error(event.message));
    socket.onclose = (event) => reject(new Error("closed with " + event.code));
    socket.onmessage = (event) => {
      socket.onclose = (end) => resolve(`${event.data.split("|")[0]} ${socket.protocol} ${end.code}`);
      socket.close(1000);
    };
  });
}

const agent = gateway ? undefined : new HttpsProxyAgent(process.env.HTTPS_PROXY);
console.log("ws:", await talk(new Ws(url, ["realtime"], { agent, headers: { Authorization: "Bearer " + key } })));
// What a browser has can't set headers: the key is in a subprotocol.
console.log("node:", await talk(new WebSocket(url, ["realtime", "openai-insecure-api-key." + key])));
