// The OpenAI SDK for Node chats, streaming and not, unchanged but for base URL, key and model. Prints one JSON object.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "How do you do ?" }];

const failure = async (body, key = apiKey) => {
  const other = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
  try {
    await other.chat.completions.create({ model, messages, stream: true, ...body });
    return "no error";
  } catch (error) {
    return `${error.constructor.name} ${error.code}`;
  }
};

const whole = await client.chat.completions.create({ model, messages });
const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    streamed,
    usage: { read: usage.prompt_tokens, written: usage.completion_tokens },
    failures: { key: await failure({}, "wrong"), model: await failure({ model: "openai/text-embedding-3-small" }) },
  }),
);
