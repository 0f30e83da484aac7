/** Pages read before they are asked for, in memory that goes from one to the next. */
import type { Page } from "../core/words.ts";
import type { Allocate } from "./exchange.ts";
import { PAGE_BYTES } from "./pages.ts";

/** A page is small now and then, and taken sooner than the one behind it is read. */
const AHEAD = 2;
/** A page is about as large as the one before it. */
const ROOM = 1.25;

type Bytes = Uint8Array<ArrayBuffer>;

interface Read<Note> {
  page: Page;
  note: Note;
  /** What the page's keys and values lie in. */
  used: Bytes;
}

/** The pages in their order, each with what `note` said when it was asked for. */
export class PagesAhead<Note> {
  readonly #read: (from: Uint8Array, allocate: Allocate) => Promise<Page>;
  readonly #note: () => Note;
  readonly #memory = new Memory();
  readonly #waiting: Promise<Read<Note>>[] = [];
  /** Of the pages that are there and wait. */
  #bytes = 0;
  /** Where the next page begins; null: it is not known yet, or there is none. */
  #from: Uint8Array | null;
  #used: Bytes = new Uint8Array();

  /** @param from null: there are no pages */
  constructor(
    read: (from: Uint8Array, allocate: Allocate) => Promise<Page>,
    from: Uint8Array | null,
    note: () => Note,
  ) {
    this.#read = read;
    this.#from = from;
    this.#note = note;
    this.#fill();
  }

  /** null: that was the last one. A page is valid until the next is asked for. @throws what `read` threw */
  async next(): Promise<Omit<Read<Note>, "used"> | null> {
    const first = this.#waiting.shift();
    if (!first) return null;
    this.#memory.give(this.#used);
    this.#used = new Uint8Array();
    const { used, ...read } = await first;
    this.#used = used;
    this.#bytes -= used.length;
    this.#fill();
    return read;
  }

  /** One page is read at a time, for it says where the next begins. */
  #fill(): void {
    if (this.#from === null || this.#waiting.length === AHEAD) return;
    if (this.#bytes >= PAGE_BYTES) return; // of large values a page is larger than it should be
    const reading = this.#ask(this.#from);
    this.#from = null;
    reading.catch(() => {}); // it is awaited after the pages before it
    this.#waiting.push(reading);
  }

  async #ask(from: Uint8Array): Promise<Read<Note>> {
    const note = this.#note();
    let used: Bytes = new Uint8Array();
    const page = await this.#read(from, (size) => {
      this.#memory.give(used); // a range that was empty, or an answer that broke off
      return used = this.#memory.take(size);
    });
    this.#from = page.last ? null : page.to;
    this.#bytes += used.length;
    this.#fill();
    return { page, note, used };
  }
}

/** V8 counts what lies outside of its heap: with new memory for each page half of the program's work was to collect it. */
class Memory {
  readonly #free: ArrayBuffer[] = [];

  /** Of any content. */
  take(size: number): Bytes {
    const free = this.#free.pop();
    const memory = free && free.byteLength >= size ? free : new ArrayBuffer(Math.ceil(size * ROOM));
    return new Uint8Array(memory, 0, size);
  }

  give({ buffer }: Bytes): void {
    if (buffer.byteLength > 0) this.#free.push(buffer);
  }
}
