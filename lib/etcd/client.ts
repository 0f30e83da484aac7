/** Calls to etcd: one server of the list at a time, the next one when it fails; a login when a token has ended. */
import type { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { type DirectOptions, directUnary } from "./direct.ts";
import { Endpoint, MAX_RECEIVE_BYTES, type TlsFiles } from "./endpoint.ts";
import { EtcdError } from "./error.ts";
import { OLD_HTTP2 } from "./old_http2.ts";
import { methodPath, type Service } from "./protocol.ts";
import { CALL_TIMEOUT_MS, unary, type UnaryOptions } from "./unary.ts";

export { EtcdError } from "./error.ts";

/** What `--etcd-dsn` says of the servers, see lib/etcd/dsn.ts. */
export interface EtcdOptions {
  /** host:port */
  endpoints: string[];
  user?: string;
  password?: string;
  /** undefined = plain text. */
  tls?: TlsFiles;
}

export interface CallOptions<Answer> extends Omit<UnaryOptions<Answer>, "metadata"> {
  /** A read: where the server does not answer, the next one is asked. */
  repeatable?: boolean;
}

/** The watch has a client of its own, so that a page never waits behind events. */
export class EtcdClient {
  #options: EtcdOptions;
  readonly #endpoints: Endpoint[];
  #at = 0;
  #login: Promise<grpc.Metadata> | undefined;

  constructor(options: EtcdOptions) {
    this.#options = options;
    this.#endpoints = options.endpoints.map((address) => new Endpoint(address, options.tls));
  }

  /**
   * One call, one answer. It is sent again only where it certainly was not carried out, or is `repeatable`.
   * @throws {EtcdError} with grpc's code; the call may have been carried out all the same (see `isLostAnswer`)
   */
  async call<Answer>(
    service: Service,
    name: string,
    request: unknown,
    { repeatable = false, ...options }: CallOptions<Answer> = {},
  ): Promise<Answer> {
    return await this.#attempt(repeatable, async (client) => {
      const metadata = await this.#metadata(client, service);
      return await unary(client, service, name, request, { ...options, metadata });
    });
  }

  /**
   * As `call`, where much is moved: on a connection of its own, see lib/etcd/http2.ts. Not where grpc-js can do it and
   * Deno's sockets cannot: beside a CA of one's own they trust all the others, and with a client's certificate they wait
   * for Nagle's algorithm (lib/etcd/socket.ts).
   * @throws {EtcdError} as `call`
   */
  async direct<Answer>(
    service: Service,
    name: string,
    message: Buffer,
    options: Omit<CallOptions<Answer>, "encode"> & { decode: (bytes: Uint8Array) => Answer },
  ): Promise<Answer> {
    const { ca, cert } = this.#options.tls ?? {};
    if ((ca || cert) && !OLD_HTTP2) {
      return await this.call(service, name, null, { ...options, encode: () => message });
    }
    const { repeatable = false, timeoutMs = CALL_TIMEOUT_MS, decode } = options;
    return await this.#attempt(repeatable, async (client, endpoint) => {
      const metadata = await this.#metadata(client, service);
      const how: DirectOptions<Answer> = { metadata, timeoutMs, decode, maxBytes: MAX_RECEIVE_BYTES };
      return await directUnary(await endpoint.direct(), methodPath(service, name), message, how);
    });
  }

  async #attempt<Answer>(
    repeatable: boolean,
    use: (client: grpc.Client, endpoint: Endpoint) => Promise<Answer>,
  ): Promise<Answer> {
    let loggedIn = false;
    for (let left = this.#endpoints.length - 1;;) {
      try {
        return await this.#connected(use);
      } catch (error) {
        if (!(error instanceof EtcdError)) throw error;
        if (error.code === grpc.status.UNAUTHENTICATED && !loggedIn) loggedIn = true;
        else if ((error.unsent || repeatable && isOfServer(error)) && left > 0) left--;
        else throw error;
      }
    }
  }

  /** Opens a stream both ways, of messages as bytes. Errors arrive on it as grpc's own; see `startOver`. */
  async stream<Answer>(
    service: Service,
    name: string,
    decode: (bytes: Buffer) => Answer,
  ): Promise<grpc.ClientDuplexStream<Buffer, Answer>> {
    return await this.#connected(async (client) => {
      const metadata = await this.#metadata(client, service);
      try {
        return client.makeBidiStreamRequest(methodPath(service, name), (bytes) => bytes, decode, metadata);
      } catch (error) { // the channel was closed meanwhile
        throw new EtcdError(grpc.status.UNAVAILABLE, (error as Error).message, true);
      }
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
  async #connected<T>(use: (client: grpc.Client, endpoint: Endpoint) => Promise<T>): Promise<T> {
    const endpoint = this.#endpoints[this.#at];
    try {
      return await use(await endpoint.connected(), endpoint);
    } catch (caught) {
      if (!(caught instanceof EtcdError)) throw caught;
      const error = isOfServer(caught) ? endpoint.explain(caught) : caught;
      if (error.code === grpc.status.UNAUTHENTICATED) this.#login = undefined;
      if (error.unsent || isOfServer(error)) this.#failOver(endpoint);
      throw withHint(error, this.#options.tls);
    }
  }

  #failOver(from: Endpoint): void {
    from.reset();
    if (this.#endpoints[this.#at] === from) this.#at = (this.#at + 1) % this.#endpoints.length;
  }

  /** A member that has lost its leader refuses at once, and ends a stream, instead of keeping us waiting. */
  async #metadata(client: grpc.Client, service: Service): Promise<grpc.Metadata> {
    this.#login ??= this.#logIn(client);
    const login = this.#login;
    try {
      const metadata = (await login).clone();
      if (service !== "Maintenance") metadata.set("hasleader", "true");
      return metadata;
    } catch (error) {
      if (this.#login === login) this.#login = undefined;
      throw error;
    }
  }

  async #logIn(client: grpc.Client): Promise<grpc.Metadata> {
    const metadata = new grpc.Metadata();
    const { user, password = "" } = this.#options;
    if (user === undefined) return metadata;
    try {
      const request = { name: user, password };
      const { token } = await unary<{ token: string }>(client, "Auth", "Authenticate", request, { metadata });
      const tokens = new grpc.Metadata();
      tokens.set("token", token);
      return tokens;
    } catch (error) {
      const { code, message } = error as EtcdError;
      if (message === NO_AUTH) return metadata; // as etcd's own client: nothing to log in to
      // a wrong password is an invalid argument to etcd
      const kind = code === grpc.status.INVALID_ARGUMENT ? grpc.status.PERMISSION_DENIED : code;
      throw new EtcdError(kind, message, kind !== grpc.status.PERMISSION_DENIED);
    }
  }
}

/** etcd's rpctypes; its code is shared with other errors. */
const NO_AUTH = "etcdserver: authentication is not enabled";

/** It is the server, or the way to it, that fails, and not the request. */
function isOfServer({ code }: EtcdError): boolean {
  return code === grpc.status.UNAVAILABLE || code === grpc.status.DEADLINE_EXCEEDED ||
    code === grpc.status.INTERNAL || code === grpc.status.UNKNOWN;
}

/** By TLS 1.3 a client learns that its certificate is missing only from a connection that ends, or hangs. */
function withHint(error: EtcdError, tls: TlsFiles | undefined): EtcdError {
  const refused = error.unsent && error.code === grpc.status.UNAVAILABLE;
  if (!tls || tls.cert || refused || !isOfServer(error)) return error;
  return new EtcdError(error.code, `${error.message} (it may want a client's certificate)`, error.unsent);
}
