/** An error that the gateway answered. `code` is stable; see the gateway's list of errors. */
export class GatewayError extends Error {
  readonly status: number;
  readonly code: string;
  readonly param: string | null;
  readonly requestId: string | null;
  readonly retryAfterS: number | null;
}

export interface ClientOptions {
  /** A key of the gateway. */
  apiKey: string;
  /** Address of the gateway with `/v1`. */
  baseURL?: string;
  /** Milliseconds for one request, its stream included. 60,000 if absent. */
  timeoutMs?: number;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface EmbeddingsRequest {
  /** `author/name`, such as `local/all-minilm-l6-v2`. */
  model: string;
  input: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  dimensions?: number;
  input_type?: "query" | "document";
  truncate?: "none" | "start" | "end";
  user?: string;
  cache?: "store" | "no-store";
  signal?: AbortSignal;
  [option: string]: unknown;
}

export interface Embeddings {
  model: string;
  /** One for each input, in the order of the request. */
  vectors: Float32Array[];
  usage: { prompt_tokens: number; total_tokens: number };
}

export interface ChatRequest {
  model: string;
  messages: readonly { role: string; content?: unknown; [field: string]: unknown }[];
  signal?: AbortSignal;
  [option: string]: unknown;
}

export interface ChatCompletion {
  choices: { index: number; message: { role: string; content: string | null }; finish_reason: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
  [field: string]: unknown;
}

export interface ChatChunk {
  choices: { index: number; delta: { role?: string; content?: string | null }; finish_reason: string | null }[];
  [field: string]: unknown;
}

export interface RerankRequest {
  model: string;
  query: string;
  documents: readonly string[];
  top_n?: number;
  return_documents?: boolean;
  signal?: AbortSignal;
  [option: string]: unknown;
}

export interface Ranking {
  id: string;
  model: string;
  /** The best first. `index` is the position in the request. */
  results: { index: number; relevance_score: number; document?: { text: string } }[];
  usage: { prompt_tokens: number; total_tokens: number };
}

/** Client of one gateway. Every call rejects with a GatewayError, or with the reason for which it was aborted. */
export class Client {
  constructor(options: ClientOptions);
  embeddings(request: EmbeddingsRequest): Promise<Embeddings>;
  chatCompletions(request: ChatRequest & { stream: true }): Promise<AsyncIterable<ChatChunk>>;
  chatCompletions(request: ChatRequest & { stream?: false }): Promise<ChatCompletion>;
  rerank(request: RerankRequest): Promise<Ranking>;
}

/** The numbers in base64 of little-endian float32. */
export function decode(text: string): Float32Array;
