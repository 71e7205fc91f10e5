// LangChain JS, and Azure's class of the OpenAI SDK, against the gateway. Reads one JSON object (where the gateway is,
// texts, models) and prints one for the test to judge, as vercel_ai.mjs does.
import { readFileSync } from "node:fs";

import { OpenAIEmbeddings } from "@langchain/openai";
import { AzureOpenAI } from "openai";

const documents = async (baseURL, apiKey, model, values) => {
  const embeddings = new OpenAIEmbeddings({ model, apiKey, batchSize: 32, maxRetries: 0, configuration: { baseURL } });
  return embeddings.embedDocuments(values);
};

const query = async (baseURL, apiKey, model, values) => {
  const embeddings = new OpenAIEmbeddings({ model, apiKey, maxRetries: 0, configuration: { baseURL } });
  return [await embeddings.embedQuery(values[0])];
};

const azure = async (baseURL, apiKey, model, values) => {
  const endpoint = baseURL.replace(/\/v1$/, "");
  const client = new AzureOpenAI({ endpoint, apiKey, apiVersion: "2024-10-21", maxRetries: 0 });
  const { data } = await client.embeddings.create({ model, input: values });
  return data.map((item) => item.embedding);
};

const ways = { documents, query, azure };

const packed = (vectors) => Buffer.from(Float32Array.from(vectors.flat()).buffer).toString("base64");

const failure = async (way, ...where) => {
  try {
    await way(...where, ["text"]);
    return "no error";
  } catch (error) {
    return `${error.status} ${error.code}`;
  }
};

const job = JSON.parse(readFileSync(0, "utf8"));
const answer = { vectors: {}, failures: {} };
for (const [name, way] of Object.entries(ways)) {
  answer.vectors[name] = {};
  for (const model of job.models) {
    answer.vectors[name][model] = packed(await way(job.base_url, job.key, model, job.texts));
  }
  answer.failures[name] = {
    "unknown model": await failure(way, job.base_url, job.key, "nobody/nothing"),
    "wrong key": await failure(way, job.base_url, "wrong", job.models[0]),
  };
}
process.stdout.write(JSON.stringify(answer));
