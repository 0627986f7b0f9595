// Loaded first by each Node program that sallyport runs. NODE_USE_ENV_PROXY leads through the proxy only what
// uses Node's own agents (Node's documentation, "Built-in Proxy Support"). SDKs that make agents of their own,
// such as those of Stripe and AWS, would go around it, so an agent that says nothing of proxies takes the
// environment's. Classes that extend Agent know their way already and stay as they are.
"use strict";
const [major, minor] = process.versions.node.split(".").map(Number);
if (major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21)) {
  for (const module of [require("node:http"), require("node:https")]) {
    module.Agent = new Proxy(module.Agent, {
      construct(agent, [options, ...rest], made) {
        if (made !== module.Agent) return Reflect.construct(agent, [options, ...rest], made);
        return new agent({ proxyEnv: process.env, ...options }, ...rest);
      },
    });
  }
  require("node:module").syncBuiltinESMExports();
}
