// The OpenAI SDK for Node through the gateway: a base URL and a token, no proxy and no CA.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS + "/");
const { default: OpenAI } = require("openai");

const client = new OpenAI({ maxRetries: 0 });
const answer = await client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "hi" }] });
console.log("answer:", answer.choices[0].message.content);
