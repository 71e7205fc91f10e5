// The OpenAI SDK for Node, unchanged but for base URL, key and model. Prints one JSON object for the test to judge.
import OpenAI from "openai";

const [baseURL, apiKey, model, smallModel, tokens] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const texts = ["The cat sat on the mat.", "Ein Satz, der länger ist.", "短い文"];

const vectors = async (body) => (await client.embeddings.create({ model, ...body })).data.map((item) => item.embedding);

const failure = async (body, key = apiKey) => {
  const other = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
  try {
    await other.embeddings.create({ model, input: "hello", ...body });
    return "no error";
  } catch (error) {
    return `${error.constructor.name} ${error.code}`;
  }
};

const result = {
  plain: await vectors({ input: texts }),
  float: await vectors({ input: texts, encoding_format: "float" }),
  one: (await vectors({ input: texts[0] }))[0],
  tokens: (await vectors({ input: JSON.parse(tokens) }))[0],
  tokenLists: await vectors({ input: [JSON.parse(tokens), JSON.parse(tokens)] }),
  base64: (await vectors({ input: texts, encoding_format: "base64" })).map(String),
  small: await vectors({ model: smallModel, input: texts, dimensions: 64 }),
  many: (await client.embeddings.create({ model: smallModel, input: Array.from({ length: 2048 }, (_, i) => `text ${i}`) })).data.map((item) => item.index),
  failures: {
    key: await failure({}, "wrong"),
    model: await failure({ model: "nobody/nothing" }),
    chat: await failure({ model: "gpt-4o" }),
    empty: await failure({ input: "" }),
    count: await failure({ input: Array(2049).fill("a") }),
    long: await failure({ input: "word ".repeat(300) }),
    total: await failure({ input: Array(1600).fill("word ".repeat(200)) }),
    dimensions: await failure({ dimensions: 385 }),
  },
};
console.log(JSON.stringify(result));
