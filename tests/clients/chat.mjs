// The OpenAI SDK for Node, and fetch, with nothing set but their environment.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS + "/");
const { default: OpenAI } = require("openai");

const client = new OpenAI({ maxRetries: 0 });
const answer = await client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "hi" }] });
const headers = { authorization: `Bearer ${process.env.OPENAI_API_KEY}` };
const reply = await fetch("https://api.openai.com/v1/models", { headers });
const models = await reply.json();
console.log("answer:", answer.choices[0].message.content, models.object);
console.log("environment:", JSON.stringify(process.env));
