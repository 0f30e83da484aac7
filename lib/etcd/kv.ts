/** Reading keys and pages, and the transaction that the drain sends. */
import type { KeyValue } from "../core/words.ts";
import type { TxnAnswer, TxnPlan } from "../core/txn.ts";
import type { EtcdClient } from "./client.ts";
import { encodeRange, encodeTxn } from "./encode.ts";
import { EtcdError, STATUS } from "./error.ts";
import type { Allocate } from "./exchange.ts";
import { decodeRangeResponse, decodeTxnResponse, type RangeResponse } from "./wire.ts";

/** The revision asked for is compacted. */
export function isCompacted(error: unknown): boolean {
  return error instanceof EtcdError && error.code === STATUS.OUT_OF_RANGE && !isFuture(error);
}

/** The revision asked for is ahead of etcd. Only its text tells it from a compacted one: both are OUT_OF_RANGE (etcd's rpctypes). */
export function isFuture(error: unknown): boolean {
  return error instanceof EtcdError && error.code === STATUS.OUT_OF_RANGE &&
    error.message === "etcdserver: mvcc: required revision is a future revision";
}

/** The answer is bigger than one message may be. */
export function isTooLarge(error: unknown): boolean {
  return error instanceof EtcdError && error.code === STATUS.RESOURCE_EXHAUSTED;
}

/**
 * Keys from `from` up to `to`, now (linearizable) or at a past revision; parts of what `allocate` gave, if it is there.
 * @throws {EtcdError} see `isCompacted`, `isFuture` and `isTooLarge`
 */
export function readRange(
  client: EtcdClient,
  from: Uint8Array,
  to: Uint8Array,
  limit: number,
  revision = 0,
  allocate?: Allocate,
): Promise<RangeResponse> {
  const request = encodeRange({ key: from, end: to, limit, revision });
  const options = { timeoutMs: 60_000, repeatable: true, allocate };
  return client.call("KV", "Range", request, decodeRangeResponse, options);
}

export interface KeyRead {
  clusterId: string;
  /** etcd's revision at the time of the read. */
  revision: number;
  kv: KeyValue | undefined;
}

/**
 * One key, now (linearizable) or at a past revision.
 * @throws {EtcdError} see `isCompacted`
 */
export async function readKey(client: EtcdClient, key: Uint8Array, revision = 0): Promise<KeyRead> {
  const request = encodeRange({ key, end: null, limit: 0, revision });
  const answer = await client.call("KV", "Range", request, decodeRangeResponse, { repeatable: true });
  const [kv] = answer.keys;
  return { clusterId: answer.header.clusterId, revision: answer.header.revision, kv };
}

/**
 * Sends one transaction, once.
 * @throws {EtcdError} `isLostAnswer` tells whether it may have been applied
 */
export async function sendTxn(client: EtcdClient, plan: TxnPlan): Promise<TxnAnswer & { clusterId: string }> {
  const { header, succeeded, found } = await client.call("KV", "Txn", encodeTxn(plan), decodeTxnResponse);
  return {
    applied: succeeded,
    clusterId: header.clusterId,
    revision: header.revision,
    found: succeeded ? [] : found,
  };
}

/** Codes after which a write may or may not have been applied. */
const LOST_ANSWERS = new Set<number>([
  STATUS.UNAVAILABLE,
  STATUS.DEADLINE_EXCEEDED,
  STATUS.CANCELLED,
  STATUS.UNKNOWN,
  STATUS.INTERNAL,
  STATUS.ABORTED,
  STATUS.DATA_LOSS,
]);

/** Applied, not applied, unknown: this is unknown. */
export function isLostAnswer(error: unknown): boolean {
  return !(error instanceof EtcdError) || !error.unsent && LOST_ANSWERS.has(error.code);
}

/** etcd's own refusals for want of room (its rpctypes); grpc uses the same code for a message that is too large. */
const PASSING = new Set(["etcdserver: too many requests", "etcdserver: mvcc: database space exceeded"]);

/** Not carried out, but may be later: no server, no space, too many requests, a token that ended. */
export function isPassing(error: unknown): boolean {
  return error instanceof EtcdError &&
    (error.unsent && error.code !== STATUS.PERMISSION_DENIED ||
      error.code === STATUS.UNAUTHENTICATED || PASSING.has(error.message));
}
