/** Connections to etcd: npm etcd3's pool (endpoints, credentials, tokens, protocol file), called without its retries. */
import { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { Etcd3, type IOptions } from "etcd3";

/** What `--etcd-dsn` says. `prefix` is not for the client, see lib/config.ts. */
export interface EtcdOptions {
  /** host:port */
  endpoints: string[];
  user?: string;
  password?: string;
  /** PEM texts; undefined = plain text. */
  tls?: { ca?: Uint8Array; cert?: Uint8Array; key?: Uint8Array };
}

/** An answer of etcd, or of grpc on the way, that is an error. `code` is grpc's status code. */
export class EtcdError extends Error {
  constructor(readonly code: grpc.status, message: string) {
    super(message);
    this.name = "EtcdError";
  }
}

/** grpc's default of 4 MB is exceeded by one replayed watch message, which then fails for ever. */
const MAX_RECEIVE_BYTES = 256 * 1024 * 1024;
const CALL_TIMEOUT_MS = 10_000;

// etcd3 would send a Txn again by itself: an answer that is lost is for the protocol to resolve (lib/flow/lead.ts).
const CALL_ONCE = {
  execute: <T>(fn: (context: { signal: AbortSignal }) => T) =>
    Promise.resolve(fn({ signal: new AbortController().signal })),
} as unknown as NonNullable<NonNullable<IOptions["faultHandling"]>["global"]>;

interface Service extends grpc.Client {
  constructor: { service: Record<string, grpc.MethodDefinition<unknown, unknown>> } & (new () => unknown);
}

interface Pool {
  withConnection<T>(
    service: string,
    fn: (on: { client: Service; metadata: grpc.Metadata }) => T | Promise<T>,
  ): Promise<T>;
  authenticator: { invalidateMetadata(): void };
}

/** One channel to etcd. The watch has one of its own, so that a page never waits behind events. */
export class EtcdClient {
  readonly #options: EtcdOptions;
  #client: Etcd3;
  #closed = false;

  constructor(options: EtcdOptions) {
    this.#options = options;
    this.#client = this.#open();
  }

  #open(): Etcd3 {
    const options = this.#options;
    const scheme = options.tls ? "https" : "http";
    return new Etcd3({
      hosts: options.endpoints.map((endpoint) => `${scheme}://${endpoint}`),
      ...(options.tls && {
        credentials: {
          rootCertificate: options.tls.ca && Buffer.from(options.tls.ca),
          privateKey: options.tls.key && Buffer.from(options.tls.key),
          certChain: options.tls.cert && Buffer.from(options.tls.cert),
        } as IOptions["credentials"],
      }),
      ...(options.user !== undefined &&
        { auth: { username: options.user, password: options.password ?? "" } }),
      faultHandling: { global: CALL_ONCE, host: () => CALL_ONCE },
      grpcOptions: {
        "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
        "grpc.max_send_message_length": MAX_RECEIVE_BYTES,
        // grpc would repeat a call that cannot be started for ever, without a pause: see #renewed
        "grpc.enable_retries": 0,
        "grpc.use_local_subchannel_pool": 1,
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_timeout_ms": 5_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1_000,
      },
    });
  }

  get #pool(): Pool {
    return (this.#client as unknown as { pool: Pool }).pool;
  }

  /**
   * A connection that ends in the moment in which it is made is kept by grpc-js as one that works, for ever: every call
   * on it fails as INTERNAL. Only another channel gets away from it.
   */
  #renewed(failed: Etcd3, code: grpc.status | undefined): void {
    if (code !== grpc.status.INTERNAL || this.#closed || this.#client !== failed) return;
    this.#client = this.#open();
    failed.close();
  }

  /**
   * One call, one answer.
   * @throws {EtcdError} with grpc's code; the call may have been carried out all the same (see `isLostAnswer`)
   */
  async call<Answer>(
    service: string,
    method: string,
    request: unknown,
    { decode, timeoutMs = CALL_TIMEOUT_MS }: { decode?: (bytes: Buffer) => Answer; timeoutMs?: number } = {},
  ): Promise<Answer> {
    const used = this.#client;
    const result = await this.#connected(service, ({ client, metadata }) => {
      const definition = client.constructor.service[method];
      return new Promise<{ error: grpc.ServiceError | null; answer?: unknown }>((resolve) => {
        client.makeUnaryRequest(
          definition.path,
          definition.requestSerialize,
          decode ?? definition.responseDeserialize,
          request,
          metadata,
          { deadline: Date.now() + timeoutMs },
          (error, answer) => resolve({ error, answer }),
        );
      });
    });
    if (result.error === null) return result.answer as Answer;
    this.#renewed(used, result.error.code);
    throw this.#error(result.error);
  }

  /** Opens a stream both ways. Errors arrive on it as grpc's own. */
  stream<Request, Answer>(
    service: string,
    method: string,
    decode: (bytes: Buffer) => Answer,
  ): Promise<grpc.ClientDuplexStream<Request, Answer>> {
    const used = this.#client;
    return this.#connected(service, ({ client, metadata }) => {
      const definition = client.constructor.service[method];
      const stream: grpc.ClientDuplexStream<Request, Answer> = client.makeBidiStreamRequest(
        definition.path,
        definition.requestSerialize as grpc.serialize<Request>,
        decode,
        withLeader(metadata),
      );
      stream.on("error", ({ code }: Partial<grpc.ServiceError>) => this.#renewed(used, code));
      return stream;
    });
  }

  /** The next call or stream logs in anew: a token can have ended, and a stream does not always say so. */
  forgetToken(): void {
    this.#pool.authenticator.invalidateMetadata();
  }

  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  async #connected<T>(
    service: string,
    fn: (on: { client: Service; metadata: grpc.Metadata }) => T | Promise<T>,
  ): Promise<T> {
    try {
      return await this.#pool.withConnection(service, fn);
    } catch (error) { // logging in failed
      throw this.#error(error);
    }
  }

  /** An error of a stream or a call as ours. */
  #error(error: unknown): EtcdError {
    if (error instanceof EtcdError) return error;
    const { code, details, message } = error as Partial<grpc.ServiceError> & Error;
    const failed = new EtcdError(
      details === OLD_AUTH ? grpc.status.UNAUTHENTICATED : code ?? loginCode(error as Error),
      details || message,
    );
    if (failed.code === grpc.status.UNAUTHENTICATED) this.forgetToken();
    return failed;
  }
}

/** The only sign that users or roles have changed since the login; its code is INVALID_ARGUMENT (etcd's rpctypes). */
const OLD_AUTH = "etcdserver: revision of auth store is old";

/** A member that has lost its leader ends such a stream, instead of keeping it silent and seemingly fresh. */
function withLeader(metadata: grpc.Metadata): grpc.Metadata {
  const all = metadata.clone();
  all.set("hasleader", "true");
  return all;
}

// etcd3 turns the errors of its login into classes without a code.
function loginCode(error: Error): grpc.status {
  return error.constructor.name === "EtcdAuthenticationFailedError" ||
      error.constructor.name === "GRPCInvalidArgumentError"
    ? grpc.status.PERMISSION_DENIED
    : grpc.status.UNAVAILABLE;
}
