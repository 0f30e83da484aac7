/** When keys arrive in etcd, in this process. */
import { EtcdClient } from "../lib/etcd/client.ts";
import { Watch } from "../lib/etcd/watch.ts";
import { prefixRange } from "../lib/stream.ts";
import { now } from "./load.ts";
import type { Place } from "./servers.ts";

export class KeyWatch implements AsyncDisposable {
  readonly #times = new Map<string, number>();
  readonly #waiting = new Map<string, (at: number) => void>();
  readonly #ended: Promise<void>;

  private constructor(
    readonly place: Place,
    readonly watch: Watch,
    readonly client: EtcdClient,
    created: () => void,
  ) {
    this.#ended = this.#read(created).catch(() => {}); // it is cancelled at the end
  }

  /** Opens a watch of the place's prefix, from now on. */
  static async open(place: Place): Promise<KeyWatch> {
    const client = new EtcdClient({ endpoints: [place.endpoint] });
    const range = prefixRange(new TextEncoder().encode(place.prefix));
    const watch = await Watch.open(client, range, 0, false);
    const created = Promise.withResolvers<void>();
    const keys = new KeyWatch(place, watch, client, created.resolve);
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

  async [Symbol.asyncDispose](): Promise<void> {
    await this.watch[Symbol.asyncDispose]();
    await this.#ended;
    this.client.close();
  }

  async #read(created: () => void): Promise<void> {
    for await (const { events } of this.watch) {
      created();
      const at = now();
      for (const { kv } of events) {
        const key = new TextDecoder().decode(kv.key);
        if (!this.#times.has(key)) this.#times.set(key, at);
        this.#waiting.get(key)?.(at);
        this.#waiting.delete(key);
      }
    }
  }
}
