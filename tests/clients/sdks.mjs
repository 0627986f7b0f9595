// One client for Node, named by the argument: a call, then a stream where it has one. Nothing is set but its
// environment.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS + "/");
const load = async (name) => import(require.resolve(name));
const say = (...words) => console.log(...words);

const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };
const models = "https://api.openai.com/v1/models";
const stream = models + "?stream";
const headers = { authorization: `Bearer ${process.env.OPENAI_API_KEY}` };

const clients = {
  async openai() {
    const { default: OpenAI } = await load("openai");
    const client = new OpenAI({ maxRetries: 0 });
    say("answer:", (await client.chat.completions.create(ask)).choices[0].message.content);
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      say("piece:", chunk.choices[0].delta.content);
    }
  },
  async anthropic() {
    const { default: Anthropic } = await load("@anthropic-ai/sdk");
    const client = new Anthropic({ maxRetries: 0 });
    say("answer:", (await client.messages.create({ ...ask, max_tokens: 10 })).content[0].text);
    for await (const event of client.messages.stream({ ...ask, max_tokens: 10 })) {
      if (event.type === "content_block_delta") say("piece:", event.delta.text);
    }
  },
  async stripe() {
    const { default: Stripe } = await load("stripe");
    const client = new Stripe(process.env.STRIPE_API_KEY, { maxNetworkRetries: 0, telemetry: false });
    const charge = await client.charges.create({ amount: 100, currency: "eur", source: "tok_visa" });
    say("answer:", charge.description);
  },
  async octokit() {
    const { Octokit } = await load("octokit");
    const client = new Octokit({ auth: process.env.GITHUB_TOKEN });
    say("answer:", (await client.rest.users.getAuthenticated()).data.login);
  },
  async fetch() {
    await fetched(fetch);
  },
  async undici() {
    const { EnvHttpProxyAgent, fetch } = await load("undici");
    const dispatcher = new EnvHttpProxyAgent();
    await fetched((url, options) => fetch(url, { ...options, dispatcher }));
  },
  async axios() {
    const { default: axios } = await load("axios");
    say("answer:", (await axios.get(models, { headers })).data.seen);
    const reply = await axios.get(stream, { headers, responseType: "stream" });
    for await (const piece of reply.data) say("piece:", piece.toString());
  },
};

async function fetched(fetch) {
  say("answer:", (await (await fetch(models, { headers })).json()).seen);
  const reply = await fetch(stream, { headers });
  for await (const piece of reply.body) say("piece:", Buffer.from(piece).toString());
}

await clients[process.argv[2]]();
say("environment:", JSON.stringify(process.env));
