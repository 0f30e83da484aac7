/**
 * One call by Deno's own fetch, where the answer is large: node:http2 makes an event of each 16 kB, and 156 MB cost
 * 0.85 s of CPU through it (4.8 s on Deno 2.6), 0.15 s this way. Not where the request is: Nagle's algorithm holds the
 * end of one back, for 44 ms.
 *
 * fetch shows no trailers. They are not needed: an answer without a message has its status in the headers, and one with
 * a message, whole to its last byte, has succeeded.
 */
import { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { asEtcdError, EtcdError } from "./error.ts";
import { method, methodPath, type Service } from "./protocol.ts";

export interface FetchOptions<Answer> {
  metadata: grpc.Metadata;
  /** In place of the protocol file's. */
  decode?: (bytes: Uint8Array) => Answer;
  timeoutMs: number;
  /** A larger answer is refused, as grpc does: RESOURCE_EXHAUSTED. */
  maxBytes: number;
}

/** Of a message in grpc's stream: one byte of flags, four of length. */
const FRAME_BYTES = 5;

/** @throws {EtcdError} */
export async function fetchUnary<Answer>(
  server: { url: string; client: Deno.HttpClient },
  service: Service,
  name: string,
  request: unknown,
  { metadata, decode, timeoutMs, maxBytes }: FetchOptions<Answer>,
): Promise<Answer> {
  const { requestSerialize, responseDeserialize } = await method(service, name);
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  let message: Uint8Array<ArrayBuffer>;
  try {
    const response = await fetch(server.url + methodPath(service, name), {
      client: server.client,
      method: "POST",
      headers: { "content-type": "application/grpc", te: "trailers", ...texts(metadata) },
      body: framed(requestSerialize(request)),
      signal: late.signal,
    });
    message = await readMessage(response, maxBytes);
  } catch (error) {
    if (error instanceof EtcdError) throw error;
    if (late.signal.aborted) {
      throw new EtcdError(grpc.status.DEADLINE_EXCEEDED, `no answer for ${timeoutMs / 1_000} s`);
    }
    throw new EtcdError(grpc.status.UNAVAILABLE, (error as Error).message);
  } finally {
    clearTimeout(timer);
  }
  return decode ? decode(message) : responseDeserialize(Buffer.from(message.buffer)) as Answer;
}

function texts(metadata: grpc.Metadata): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata.getMap()).map(([key, value]) => [key, String(value)]));
}

function framed(message: Uint8Array): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(FRAME_BYTES + message.length);
  new DataView(frame.buffer).setUint32(1, message.length);
  frame.set(message, FRAME_BYTES);
  return frame;
}

async function readMessage(response: Response, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const status = Number(response.headers.get("grpc-status") ?? grpc.status.OK);
  if (status !== grpc.status.OK) {
    await response.body?.cancel();
    const details = decodeURIComponent(response.headers.get("grpc-message") ?? "");
    throw asEtcdError(Object.assign(new Error(details), { code: status, details }));
  }
  if (!response.ok) {
    await response.body?.cancel();
    throw new EtcdError(grpc.status.UNAVAILABLE, `HTTP status ${response.status}`);
  }
  const message = new Message(maxBytes);
  for await (const chunk of response.body ?? []) message.add(chunk);
  if (!message.whole) {
    throw new EtcdError(grpc.status.UNAVAILABLE, `the answer ended before its end (HTTP ${response.status})`);
  }
  return message.bytes;
}

/** Puts a message together, whose length comes first. */
class Message {
  readonly #head = new Uint8Array(FRAME_BYTES);
  #at = 0;
  bytes = new Uint8Array();

  constructor(readonly maxBytes: number) {}

  get whole(): boolean {
    return this.#at === FRAME_BYTES + this.bytes.length && this.#at > 0;
  }

  add(chunk: Uint8Array): void {
    let rest = chunk;
    if (this.#at < FRAME_BYTES) {
      const head = chunk.subarray(0, FRAME_BYTES - this.#at);
      this.#head.set(head, this.#at);
      this.#at += head.length;
      if (this.#at === FRAME_BYTES) this.#begin();
      rest = chunk.subarray(head.length);
    }
    if (rest.length === 0) return;
    this.bytes.set(rest, this.#at - FRAME_BYTES);
    this.#at += rest.length;
  }

  #begin(): void {
    const length = new DataView(this.#head.buffer).getUint32(1);
    if (this.#head[0] !== 0) throw new EtcdError(grpc.status.INTERNAL, "an answer that is compressed");
    if (length > this.maxBytes) {
      throw new EtcdError(
        grpc.status.RESOURCE_EXHAUSTED,
        `an answer of ${length} bytes, the limit is ${this.maxBytes}`,
      );
    }
    this.bytes = new Uint8Array(length);
  }
}
