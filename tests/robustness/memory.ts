/** How much memory the program takes: the largest resident size of its processes, as the kernel has it. */

export const MOST_MEGABYTES = 512;
const EVERY_MS = 1_000;

export class Memory implements AsyncDisposable {
  /** The largest so far, in MB. */
  most = 0;
  readonly #pids: () => number[];
  readonly #stop = Promise.withResolvers<void>();
  readonly #watching: Promise<void>;

  constructor(pids: () => number[]) {
    this.#pids = pids;
    this.#watching = this.#watch();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.resolve();
    await this.#watching;
  }

  async #watch(): Promise<void> {
    for (let going = true; going;) {
      await this.#look();
      let timer: ReturnType<typeof setTimeout> | undefined;
      const next = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(true), EVERY_MS));
      going = await Promise.race([next, this.#stop.promise.then(() => false)]);
      clearTimeout(timer);
    }
  }

  /** Asked of `sh`, as Deno opens /proc only to programs that may do everything. */
  async #look(): Promise<void> {
    const files = this.#pids().map((pid) => `/proc/${pid}/status`);
    if (files.length === 0) return;
    const { stdout } = await new Deno.Command("grep", { args: ["-h", "VmHWM", ...files], stderr: "null" })
      .output();
    for (const [, kilobytes] of new TextDecoder().decode(stdout).matchAll(/VmHWM:\s*(\d+) kB/g)) {
      this.most = Math.max(this.most, Math.round(Number(kilobytes) / 1024));
    }
  }
}
