// Drives Chromium as a computer-use agent does: opens the page that the argument names, and calls an API from
// it with what stands in for the key. What the page shows is printed as it changes.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS + "/");
const { chromium } = require("playwright-core");

const proxy = new URL(process.env.HTTPS_PROXY);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox"],
  proxy: { server: `http://${proxy.host}`, username: proxy.username, password: proxy.password },
});
const page = await browser.newPage();
page.on("console", (message) => console.log(message.text()));
page.on("requestfailed", (request) => console.log("failed:", request.url(), request.failure().errorText));
await page.goto(process.argv[2]);
console.log("title:", await page.title());

await page.evaluate(async (key) => {
  const url = "https://api.openai.com/v1/models";
  const headers = { authorization: "Bearer " + key };
  const reply = await fetch(url, { headers });
  console.log("answer:", (await reply.json()).seen, JSON.stringify([...reply.headers]));
  const text = (await fetch(url + "?stream", { headers })).body.pipeThrough(new TextDecoderStream());
  for await (const piece of text) {
    document.body.append(piece);
    console.log("piece:", document.body.textContent);
  }
}, process.env.OPENAI_API_KEY);
console.log("page:", await page.content());
await browser.close();
console.log("environment:", JSON.stringify(process.env));
