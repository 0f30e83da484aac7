/** When keys arrive in etcd, in this process. */
import { EtcdClient } from "../lib/etcd/client.ts";
import type { OpenStream } from "../lib/etcd/http2.ts";
import { watchRange } from "../lib/etcd/watch.ts";
import type { WatchResponse } from "../lib/etcd/wire.ts";
import { prefixRange } from "../lib/stream.ts";
import { now } from "./load.ts";
import type { Place } from "./servers.ts";

export class KeyWatch implements Disposable {
  readonly #times = new Map<string, number>();
  readonly #waiting = new Map<string, (at: number) => void>();
  readonly #client: EtcdClient;
  #watch: OpenStream | undefined;

  private constructor(readonly place: Place) {
    this.#client = new EtcdClient({ endpoints: [place.endpoint] });
  }

  /** Opens a watch of the place's prefix, from now on. */
  static async open(place: Place): Promise<KeyWatch> {
    const keys = new KeyWatch(place);
    const range = prefixRange(new TextEncoder().encode(place.prefix));
    const created = Promise.withResolvers<void>();
    keys.#watch = await watchRange(keys.#client, range, 0, false, (response) => {
      created.resolve();
      keys.#receive(response);
    });
    await created.promise;
    return keys;
  }

  /** When the watch brought this key; epoch, ms. @throws {Error} not before the deadline */
  async when(key: string): Promise<number> {
    const { signal } = this.place;
    return this.#times.get(key) ?? await new Promise((resolve, reject) => {
      const late = () => reject(new Error("it took too long"));
      signal.addEventListener("abort", late, { once: true });
      this.#waiting.set(key, (at) => {
        signal.removeEventListener("abort", late);
        resolve(at);
      });
    });
  }

  [Symbol.dispose](): void {
    this.#watch?.cancel();
    this.#client.close();
  }

  #receive({ events }: WatchResponse): void {
    const at = now();
    for (const { kv } of events) {
      const key = new TextDecoder().decode(kv.key);
      if (!this.#times.has(key)) this.#times.set(key, at);
      this.#waiting.get(key)?.(at);
      this.#waiting.delete(key);
    }
  }
}
