/** What etcd, or grpc on the way to it, answers when it does not do what it was asked. */
import * as grpc from "@grpc/grpc-js";

export class EtcdError extends Error {
  /**
   * @param code grpc's status code
   * @param unsent it came to no server that could have carried it out: certainly not applied, and another may take it
   */
  constructor(readonly code: grpc.status, message: string, readonly unsent = false) {
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

/** An error of a stream or a call as ours. */
export function asEtcdError(error: Partial<grpc.ServiceError> & Error): EtcdError {
  const message = readable(error.details || error.message);
  const code = LOG_IN_AGAIN.has(message) ? grpc.status.UNAUTHENTICATED : error.code ?? grpc.status.UNKNOWN;
  return new EtcdError(code, message, message === LEARNER);
}

/** grpc's own words at a deadline go on with how the time was spent. */
function readable(message: string): string {
  return message.replace(
    /^Deadline exceeded after ([\d.]+)s\b.*$/s,
    (_, seconds) => `no answer for ${Math.round(seconds)} s`,
  );
}
