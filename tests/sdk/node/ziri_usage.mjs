// The calls of the usage page of ZIRI's API, made as its SDK makes them: X-API-Key, the parameters as the body, and an
// error that begins with the status and the words of the answer. Prints one JSON object.
class UserSDK {
  constructor({ apiKey, proxyUrl = "http://localhost:3100", timeoutMs = 30000 }) {
    Object.assign(this, { apiKey, proxyUrl, timeoutMs });
  }

  async post(path, params) {
    const response = await fetch(`${this.proxyUrl}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-API-Key": this.apiKey },
      body: JSON.stringify(params),
      signal: AbortSignal.timeout(this.timeoutMs),
    });
    if (!response.ok) throw new Error(`Request failed: ${response.status} ${(await response.json()).error}`);
    return response.json();
  }

  chatCompletions = (params) => this.post("/api/chat/completions", params);
  embeddings = (params) => this.post("/api/embeddings", params);
}

const [proxyUrl, apiKey] = process.argv.slice(2);
const sdk = new UserSDK({ apiKey, proxyUrl, timeoutMs: 120000 });

const message = async (sdk, params) => {
  try {
    await sdk.embeddings(params);
    return "no error";
  } catch (error) {
    return error.message;
  }
};

const chat = await sdk.chatCompletions({
  provider: "openai",
  model: "gpt-4o-mini",
  messages: [{ role: "user", content: "Hello!" }],
  max_tokens: 100,
});
const embedding = await sdk.embeddings({ provider: "local", model: "all-minilm-l6-v2", input: "Hello, ZIRI!" });
const stranger = new UserSDK({ apiKey: "nonsense", proxyUrl, timeoutMs: 120000 });
console.log(
  JSON.stringify({
    chat: chat.choices[0].message.content,
    dimensions: embedding.data[0].embedding.length,
    meta: embedding._meta.cost.inputTokens,
    format: (await message(stranger, { provider: "local", model: "x", input: "a" })).split(".")[0],
    fields: await message(sdk, { provider: "local", model: "x" }),
  }),
);
