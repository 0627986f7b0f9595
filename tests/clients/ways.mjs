// Node's own fetch through the proxy that its environment names: URL, Authorization.
const [url, authorization] = process.argv.slice(2);
const answer = await fetch(url, { headers: { authorization } });
console.log("fetch:", answer.status, await answer.text());
