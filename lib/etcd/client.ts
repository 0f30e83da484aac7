/** Calls to etcd: one server of the list at a time, the next one when it fails; a login when a token has ended. */
import { Buffer } from "node:buffer";
import { Endpoint, type TlsFiles } from "./endpoint.ts";
import { EtcdError, STATUS } from "./error.ts";
import { encodeLogin } from "./encode.ts";
import type { Allocate } from "./exchange.ts";
import type { Http2Connection, OpenStream } from "./http2.ts";
import { method, methodPath, type Service } from "./protocol.ts";
import { callRpc, type Metadata, openRpc } from "./rpc.ts";
import { decodeToken } from "./wire.ts";

/** What `--etcd-dsn` says of the servers, see lib/etcd/dsn.ts. */
export interface EtcdOptions {
  /** host:port */
  endpoints: string[];
  user?: string;
  password?: string;
  /** undefined = plain text. */
  tls?: TlsFiles;
}

export interface CallOptions {
  timeoutMs?: number;
  /** A read: where the server does not answer, the next one is asked. */
  repeatable?: boolean;
  /** Where the answer goes. A call that is sent again asks again: what it had before is its no more. */
  allocate?: Allocate;
}

const CALL_TIMEOUT_MS = 10_000;

/** The watch has a client of its own, so that a page never waits behind events. */
export class EtcdClient {
  #options: EtcdOptions;
  readonly #endpoints: Endpoint[];
  #at = 0;
  #login: Promise<Metadata> | undefined;

  /** @param windowBytes what a stream may receive after `pause`, see lib/etcd/http2.ts */
  constructor(options: EtcdOptions, { windowBytes }: { windowBytes?: number } = {}) {
    this.#options = options;
    this.#endpoints = options.endpoints.map((address) => new Endpoint(address, options.tls, windowBytes));
  }

  /**
   * One call, one answer. It is sent again only where it certainly was not carried out, or is `repeatable`.
   * @throws {EtcdError} with grpc's code; the call may have been carried out all the same (see `isLostAnswer`)
   */
  async call<Answer>(
    service: Service,
    name: string,
    message: Uint8Array,
    decode: (bytes: Uint8Array) => Answer,
    { timeoutMs = CALL_TIMEOUT_MS, repeatable = false, allocate }: CallOptions = {},
  ): Promise<Answer> {
    let loggedIn = false;
    for (let left = this.#endpoints.length - 1;;) {
      try {
        return await this.#connected(async (connection) => {
          const metadata = await this.#metadata(connection, service);
          return await callRpc(connection, methodPath(service, name), message, {
            metadata,
            decode,
            timeoutMs,
            allocate,
          });
        });
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        if (error.code === STATUS.UNAUTHENTICATED && !loggedIn) loggedIn = true;
        else if ((error.unsent || repeatable && isOfServer(error)) && left > 0) left--;
        else throw error;
      }
    }
  }

  /** As `call`, with objects, by the protocol file of npm etcd3. */
  async ask<Answer>(
    service: Service,
    name: string,
    request: unknown,
    options: CallOptions = {},
  ): Promise<Answer> {
    const { requestSerialize, responseDeserialize } = await method(service, name);
    const decode = (bytes: Uint8Array) => responseDeserialize(Buffer.from(bytes)) as Answer;
    return await this.call(service, name, requestSerialize(request), decode, options);
  }

  /**
   * Opens a stream with its first message; `receive` is called with each answer as it arrives. Its `ended` fails in any
   * case; see `startOver`.
   * @throws {EtcdError}
   */
  async stream<Message>(
    service: Service,
    name: string,
    message: Uint8Array,
    decode: (bytes: Uint8Array) => Message,
    receive: (message: Message) => void,
  ): Promise<OpenStream> {
    return await this.#connected(async (connection) => {
      const metadata = await this.#metadata(connection, service);
      return openRpc(connection, methodPath(service, name), message, { metadata, decode, receive });
    });
  }

  /**
   * A stream broke: the next one goes to the next server, with a new login. etcd tells of a token that has ended as
   * of missing rights, so only the second time this is believed.
   */
  startOver(): void {
    this.#login = undefined;
    this.#failOver(this.#endpoints[this.#at]);
  }

  /** Counts from the next login on: a token that is valid stays in use. */
  setLogin({ user, password }: Pick<EtcdOptions, "user" | "password">): void {
    this.#options = { ...this.#options, user, password };
  }

  close(): void {
    this.#endpoints.forEach((endpoint) => endpoint.reset());
  }

  /** Runs `use` on the server whose turn it is, and passes that server over if it is the one that fails. */
  async #connected<T>(use: (connection: Http2Connection) => Promise<T>): Promise<T> {
    const endpoint = this.#endpoints[this.#at];
    try {
      return await use(await endpoint.connected());
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      if (error.code === STATUS.UNAUTHENTICATED) this.#login = undefined;
      if (error.unsent || isOfServer(error)) this.#failOver(endpoint);
      throw error;
    }
  }

  #failOver(from: Endpoint): void {
    from.reset();
    if (this.#endpoints[this.#at] === from) this.#at = (this.#at + 1) % this.#endpoints.length;
  }

  /** A member that has lost its leader refuses at once, and ends a stream, instead of keeping us waiting. */
  async #metadata(connection: Http2Connection, service: Service): Promise<Metadata> {
    this.#login ??= this.#logIn(connection);
    const login = this.#login;
    try {
      const metadata = await login;
      return service === "Maintenance" ? metadata : [...metadata, ["hasleader", "true"]];
    } catch (error) {
      if (this.#login === login) this.#login = undefined;
      throw error;
    }
  }

  async #logIn(connection: Http2Connection): Promise<Metadata> {
    const { user, password = "" } = this.#options;
    if (user === undefined) return [];
    try {
      const options = { metadata: [], decode: decodeToken, timeoutMs: CALL_TIMEOUT_MS };
      const path = methodPath("Auth", "Authenticate");
      return [["token", await callRpc(connection, path, encodeLogin(user, password), options)]];
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      const { code, message } = error;
      if (message === NO_AUTH) return []; // as etcd's own client: nothing to log in to
      // a wrong password is an invalid argument to etcd
      const kind = code === STATUS.INVALID_ARGUMENT ? STATUS.PERMISSION_DENIED : code;
      throw new EtcdError(kind, message, kind !== STATUS.PERMISSION_DENIED);
    }
  }
}

/** etcd's rpctypes; its code is shared with other errors. */
const NO_AUTH = "etcdserver: authentication is not enabled";

/** It is the server, or the way to it, that fails, and not the request. */
function isOfServer({ code }: EtcdError): boolean {
  return code === STATUS.UNAVAILABLE || code === STATUS.DEADLINE_EXCEEDED ||
    code === STATUS.INTERNAL || code === STATUS.UNKNOWN;
}
