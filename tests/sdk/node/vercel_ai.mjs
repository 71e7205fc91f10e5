// The Vercel AI SDK against the gateway, with the provider for hosts that speak as OpenAI does and with OpenAI's own.
// Reads one JSON object (where the gateway is, texts, models) and prints one for the test to judge: for each way to ask,
// the vectors of each model as base64 of float32, and the errors that mistakes raise.
import { readFileSync } from "node:fs";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, embedMany } from "ai";

const many = async (baseURL, apiKey, model, values) => {
  const gateway = createOpenAICompatible({ name: "embedgate", baseURL, apiKey });
  const { embeddings } = await embedMany({ model: gateway.embeddingModel(model), values });
  return embeddings;
};

const one = async (baseURL, apiKey, model, values) => {
  const gateway = createOpenAICompatible({ name: "embedgate", baseURL, apiKey });
  const { embedding } = await embed({ model: gateway.embeddingModel(model), value: values[0] });
  return [embedding];
};

const providerOfOpenAI = async (baseURL, apiKey, model, values) => {
  const gateway = createOpenAI({ baseURL, apiKey });
  const { embeddings, responses } = await embedMany({ model: gateway.embeddingModel(model), values });
  if (responses.length !== Math.ceil(values.length / 2048)) throw new Error(`${responses.length} calls`);
  return embeddings;
};

const ways = { many, one, "provider of OpenAI": providerOfOpenAI };

const packed = (vectors) => Buffer.from(Float32Array.from(vectors.flat()).buffer).toString("base64");

const failure = async (way, ...where) => {
  try {
    await way(...where, ["text"]);
    return "no error";
  } catch (error) {
    return APICallError.isInstance(error) ? `APICallError ${error.data.error.code}` : String(error);
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
