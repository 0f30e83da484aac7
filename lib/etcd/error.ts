/** What etcd, or the way to it, answers when it does not do what it was asked. */

/** The status codes of grpc that are told apart here (grpc's doc/statuscodes.md). */
export const STATUS = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export class EtcdError extends Error {
  /**
   * @param code grpc's status code, see STATUS
   * @param unsent it came to no server that could have carried it out: certainly not applied, and another may take it
   */
  constructor(readonly code: number, message: string, readonly unsent = false) {
    super(message);
    this.name = "EtcdError";
  }
}

/**
 * etcd's rpctypes: their codes are shared with other errors. The first is all that tells that users or roles have changed
 * since the login (it is an INVALID_ARGUMENT), the second that there was none and has to be one by now.
 */
const LOG_IN_AGAIN = new Set(["etcdserver: revision of auth store is old", "etcdserver: user name is empty"]);
const LEARNER = "etcdserver: rpc not supported for learner";

/** What a server has answered. */
export function refusal(code: number, message: string): EtcdError {
  return new EtcdError(
    LOG_IN_AGAIN.has(message) ? STATUS.UNAUTHENTICATED : code,
    message,
    message === LEARNER,
  );
}
