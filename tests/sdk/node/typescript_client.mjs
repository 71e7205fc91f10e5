// Our own client for TypeScript and JavaScript against a gateway. Prints one JSON object.
import { Client, decode } from "../../../clients/typescript/embedgate.js";

const [baseURL, apiKey, silentURL] = process.argv.slice(2);
const client = new Client({ apiKey, baseURL, timeoutMs: 120000 });
const model = "fake/deterministic";
const chat = { model: "openai/gpt-4o-mini", messages: [{ role: "user", content: "Hello" }] };

const failure = async (call) => {
  try {
    await call();
    return "no error";
  } catch (error) {
    return `${error.name} ${error.status ?? ""} ${error.code ?? ""} ${error.param ?? ""}`.trim();
  }
};

const { vectors, usage } = await client.embeddings({ model, input: ["a cat", "two dogs"], dimensions: 16 });
const one = await client.embeddings({ model, input: "a cat", dimensions: 16 });
const whole = await client.chatCompletions(chat);
let streamed = "";
for await (const chunk of await client.chatCompletions({ ...chat, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
for await (const chunk of await client.chatCompletions({ ...chat, stream: true })) if (chunk) break;
const ranking = await client.rerank({ model: "cohere/rerank-v4.0-fast", query: "q", documents: ["a", "b"] });
const leaving = new AbortController();
const left = failure(() => new Client({ apiKey, baseURL: silentURL }).embeddings({ model, input: "a", signal: leaving.signal }));
leaving.abort();
console.log(
  JSON.stringify({
    vectors: vectors.map((vector) => [...vector]),
    isTyped: vectors[0] instanceof Float32Array,
    one: [...one.vectors[0]],
    tokens: usage.total_tokens,
    whole: whole.choices[0].message.content,
    streamed,
    ranked: ranking.results.map((each) => [each.index, each.relevance_score]),
    decoded: [...decode("AACAPwAAAMA=")],
    failures: {
      key: await failure(() => new Client({ apiKey: "wrong", baseURL }).embeddings({ model, input: "a" })),
      empty: await failure(() => client.embeddings({ model, input: [] })),
      stream: await failure(() => client.chatCompletions({ ...chat, model: "no/such", stream: true })),
      rerank: await failure(() => client.rerank({ model, query: "q", documents: ["a"] })),
      late: await failure(() => new Client({ apiKey, baseURL: silentURL, timeoutMs: 50 }).embeddings({ model, input: "a" })),
      left: await left,
    },
  }),
);
