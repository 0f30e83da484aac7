/**
 * TLS for Deno 2.6, whose http2 takes no certificates (from 2.7 on it does): grpc speaks plain text to a unix socket
 * that only this user can open, and behind it Deno itself speaks TLS, which verifies names and addresses.
 */
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { EtcdError } from "./error.ts";

/** Where a socket may be: the compiled program may write to these and to no others. */
const PLACES = [Deno.env.get("RUNTIME_DIRECTORY"), Deno.env.get("XDG_RUNTIME_DIR"), "/tmp"];

/** A new folder that nobody else may enter. */
function makePrivateDir(): string {
  for (const dir of PLACES.filter((place) => place !== undefined)) {
    try {
      return Deno.makeTempDirSync({ dir, prefix: "etcd-pg-sync-" });
    } catch {
      // it is not there, or not ours
    }
  }
  throw new EtcdError(
    grpc.status.UNAVAILABLE,
    `no folder for a socket: wanted one of RUNTIME_DIRECTORY and /tmp`,
    true,
  );
}

export interface RelayOptions {
  hostname: string;
  port: number;
  /** PEM texts. */
  caCerts?: string[];
  cert?: string;
  key?: string;
}

export class TlsRelay implements Disposable {
  readonly #dir = makePrivateDir();
  readonly #listener: Deno.UnixListener;
  readonly #open = new Set<Deno.Conn>();
  /** Why the last connection failed; grpc knows only that it ended. */
  failure: string | undefined;

  constructor(readonly options: RelayOptions) {
    this.#listener = Deno.listen({ transport: "unix", path: join(this.#dir, "tls") });
    this.#accept();
  }

  /** What grpc is to connect to. */
  get target(): string {
    return `unix:${join(this.#dir, "tls")}`;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    this.#open.forEach(close);
    Deno.removeSync(this.#dir, { recursive: true });
  }

  async #accept(): Promise<void> {
    for await (const plain of this.#listener) this.#serve(plain);
  }

  async #serve(plain: Deno.Conn): Promise<void> {
    this.#open.add(plain);
    try {
      const { cert, key, ...options } = this.options;
      const own = cert && key ? { cert, key } : {};
      const secure = await Deno.connectTls({ ...options, ...own, alpnProtocols: ["h2"] });
      this.#open.add(secure);
      try {
        await secure.handshake();
        this.failure = undefined;
        await Promise.race([
          plain.readable.pipeTo(secure.writable, { preventCancel: true }),
          secure.readable.pipeTo(plain.writable, { preventCancel: true }),
        ]);
      } finally {
        close(secure);
        this.#open.delete(secure);
      }
    } catch (error) {
      this.failure = (error as Error).message;
    } finally {
      close(plain);
      this.#open.delete(plain);
    }
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // it is closed
  }
}
