// Client of an embedgate gateway. Needs `fetch`: Node 18 or later, a browser, Deno or Bun. Types are in embedgate.d.ts.

/** An error that the gateway answered. `code` is stable; see the gateway's list of errors. */
export class GatewayError extends Error {
  constructor(message, { status, code, param = null, requestId = null, retryAfterS = null }) {
    super(message);
    this.name = "GatewayError";
    Object.assign(this, { status, code, param, requestId, retryAfterS });
  }
}

/** Client of one gateway. Keeps no connection of its own. */
export class Client {
  #apiKey;

  constructor({ apiKey, baseURL = "http://127.0.0.1:3100/v1", timeoutMs = 60_000, fetch = globalThis.fetch }) {
    if (!apiKey) throw new TypeError("apiKey is required: a key of the gateway.");
    this.#apiKey = apiKey;
    this.baseURL = baseURL.replace(/\/+$/, "");
    this.timeoutMs = timeoutMs;
    this.fetch = fetch;
  }

  /** Embed texts: one Float32Array each, in their order. */
  async embeddings({ model, input, signal, ...options }) {
    const texts = typeof input === "string" ? [input] : input;
    const body = { model, input, ...options, encoding_format: "base64" };
    const answer = await this.#json("/embeddings", body, signal);
    const vectors = new Array(answer.data.length);
    for (const item of answer.data) vectors[item.index] = decode(item.embedding);
    const wanted = Array.isArray(texts) && typeof texts[0] === "number" ? 1 : texts.length;
    if (vectors.length !== wanted || vectors.includes(undefined)) {
      throw new Error(`The gateway sent ${answer.data.length} vectors for ${wanted} inputs.`);
    }
    return { model: answer.model, vectors, usage: answer.usage };
  }

  /** Chat. With `stream: true`, an async iterable of chunks; leaving its loop ends the request. */
  async chatCompletions({ signal, ...body }) {
    if (!body.stream) return this.#json("/chat/completions", body, signal);
    const { response, done } = await this.#send("/chat/completions", body, signal);
    return events(response, done);
  }

  /** Put documents in the order in which they answer a query, the best first. */
  async rerank({ signal, ...body }) {
    return this.#json("/rerank", body, signal);
  }

  async #json(path, body, signal) {
    const { response, done } = await this.#send(path, body, signal);
    try {
      return await response.json();
    } finally {
      done();
    }
  }

  /** An answer whose status is good, and what ends the watch over its time. */
  async #send(path, body, signal) {
    const controller = new AbortController();
    const expired = () => controller.abort(new DOMException(`No answer in ${this.timeoutMs} ms.`, "TimeoutError"));
    const timer = setTimeout(expired, this.timeoutMs);
    const left = () => controller.abort(signal.reason);
    if (signal?.aborted) left();
    signal?.addEventListener("abort", left);
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", left);
    };
    try {
      const response = await this.fetch(this.baseURL + path, {
        method: "POST",
        headers: { authorization: `Bearer ${this.#apiKey}`, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: controller.signal,
      });
      if (!response.ok) throw await refusal(response);
      return { response, done };
    } catch (error) {
      done();
      throw error;
    }
  }
}

async function refusal(response) {
  const text = await response.text();
  let said = {};
  try {
    said = JSON.parse(text).error ?? {};
  } catch {
    // A proxy in between, which has no code.
  }
  const wait = Number(response.headers.get("retry-after") ?? NaN);
  return new GatewayError(said.message ?? `The gateway answered ${response.status}.`, {
    status: response.status,
    code: said.code ?? `http_${response.status}`,
    param: said.param ?? null,
    requestId: response.headers.get("x-request-id"),
    retryAfterS: Number.isFinite(wait) ? wait : null,
  });
}

async function* events(response, done) {
  const decoder = new TextDecoder();
  let pending = "";
  try {
    for await (const piece of response.body) {
      pending += decoder.decode(piece, { stream: true });
      const lines = pending.split(/\r?\n/);
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new GatewayError(event.error.message, { status: response.status, ...event.error });
        yield event;
      }
    }
  } finally {
    done();
  }
}

/** The numbers in base64 of little-endian float32. */
export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const vector = new Float32Array(bytes.length / 4);
  for (let index = 0; index < vector.length; index++) vector[index] = view.getFloat32(4 * index, true);
  return vector;
}
