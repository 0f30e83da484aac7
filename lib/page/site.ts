/** The status page at `/`: its files, its feed, and the search. */
import { namedSentence } from "../errors.ts";
import { Feed } from "./feed.ts";
import { Searches } from "./history.ts";
import { Look, type Looked } from "./look.ts";
import { pageAssets } from "./assets.ts";
import { Recorder } from "./recorder.ts";

export interface SiteOptions extends Omit<Looked, "program"> {
  stream: string;
  version: string;
}

/** What the page may load: its own files, from here. */
const POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export class Site implements AsyncDisposable {
  readonly #assets: ReturnType<typeof pageAssets>["assets"];
  readonly #recorder: Recorder;
  readonly #feed: Feed;
  readonly #searches: Searches | undefined;

  constructor(options: SiteOptions) {
    const { stream, version, keys, postgres, vitals } = options;
    const { code, assets } = pageAssets({ stream, version, keys });
    this.#assets = assets;
    this.#recorder = new Recorder(vitals);
    const look = new Look({ ...options, program: { code, version, stream } }, this.#recorder);
    this.#feed = new Feed(look, this.#recorder);
    this.#searches = keys ? new Searches(postgres) : undefined;
  }

  /** undefined: it is no path of the page. */
  async answer(request: Request): Promise<Response | undefined> {
    const { pathname, searchParams } = new URL(request.url);
    const asset = this.#assets.get(pathname);
    if (asset) return reply(200, asset.body, asset.type);
    if (pathname === "/events") return this.#listen(request);
    if (pathname === "/history" && this.#searches) return await this.#search(searchParams.get("key") ?? "");
  }

  #listen({ method }: Request): Response {
    const stream = method === "HEAD" ? "" : this.#feed.open();
    if (stream === null) return reply(503, "too many pages are open\n");
    return reply(200, stream, "text/event-stream");
  }

  async #search(key: string): Promise<Response> {
    if (key === "" || key.includes("\0")) return reply(400, "wanted ?key= with a key as SQL writes it\n");
    try {
      const history = await this.#searches!.history(key);
      if (history === null) return reply(503, "other searches are under way\n");
      return reply(200, JSON.stringify(history), "application/json");
    } catch (error) {
      return reply(503, `${namedSentence(error)}\n`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#feed[Symbol.asyncDispose]();
    this.#recorder[Symbol.dispose]();
  }
}

function reply(
  status: number,
  body: string | ReadableStream<Uint8Array>,
  type = "text/plain; charset=utf-8",
): Response {
  return new Response(body, {
    status,
    headers: {
      "content-type": type,
      "cache-control": "no-store",
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
    },
  });
}
