/** A headless Chromium, as Debian packs it, on the pages of a running program. */

import assert from "node:assert/strict";
import axe from "axe-core";
import { type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { defaultSearch, onPath } from "../../lib/embedded/search.ts";
import { strict } from "./schema.ts";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

async function findChromium(): Promise<string | undefined> {
  for (const name of NAMES) {
    const found = await onPath(name, defaultSearch().path);
    if (found) return found;
  }
}

const executablePath = await findChromium();

/** A test that wants Chromium; `deno task test` says at its end that it was not run where there is none. */
export function browserTest(name: string, fn: () => Promise<void>): void {
  const ignore = executablePath === undefined;
  const why = ignore
    ? " (ignored: no Chromium on PATH; apt-get install --no-install-recommends chromium)"
    : "";
  Deno.test({ name: name + why, ignore, ...strict, fn });
}

/** How a page is seen. */
export const VIEWS: Record<string, BrowserContextOptions> = {
  "light-desktop": { colorScheme: "light", viewport: { width: 1200, height: 900 } },
  "dark-phone": { colorScheme: "dark", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 },
  "dark-desktop": { colorScheme: "dark", viewport: { width: 1200, height: 900 } },
  "light-phone": { colorScheme: "light", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 },
};

export class Browser implements AsyncDisposable {
  readonly #browser: Awaited<ReturnType<typeof chromium.launch>>;

  private constructor(browser: Awaited<ReturnType<typeof chromium.launch>>) {
    this.#browser = browser;
  }

  static async open(): Promise<Browser> {
    const args = Deno.uid() === 0 ? ["--no-sandbox"] : [];
    return new Browser(await chromium.launch({ executablePath, args }));
  }

  async visit(url: string, view: BrowserContextOptions = VIEWS["light-desktop"]): Promise<Visit> {
    const context = await this.#browser.newContext(view);
    context.setDefaultTimeout(20_000);
    const visit = new Visit(await context.newPage());
    await visit.page.goto(url);
    return visit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#browser.close();
  }
}

/** A page that is looked at. */
export class Visit {
  /** What the browser complained of. */
  readonly complaints: string[] = [];
  /** All that was asked for. */
  readonly urls: string[] = [];

  constructor(readonly page: Page) {
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") this.complaints.push(message.text());
    });
    page.on("pageerror", (error) => this.complaints.push(error.message));
    page.on("request", (request) => this.urls.push(request.url()));
  }

  /** Waits until the element's text matches. */
  async untilText(selector: string, wanted: RegExp): Promise<void> {
    await this.page.locator(selector).filter({ hasText: wanted }).first().waitFor();
  }

  async untilState(state: string): Promise<void> {
    await this.page.locator(`#machine .lit#state-${state}`).waitFor();
    assert.equal(await this.page.locator("#machine .lit").count(), 1);
  }

  /** What axe-core finds wrong; an inspection, so the page's own policy does not count. */
  async violations(): Promise<string[]> {
    await this.page.evaluate(axe.source);
    return await this.page.evaluate(async () => {
      // deno-lint-ignore no-explicit-any
      const { violations } = await (globalThis as any).axe.run();
      // deno-lint-ignore no-explicit-any
      return violations.map(({ id, nodes }: any) =>
        // deno-lint-ignore no-explicit-any
        `${id}: ${nodes.map(({ html }: any) => html).join(" ")}`
      );
    });
  }

  /** In each view, where ETCD_PG_SYNC_TEST_SCREENSHOTS names a folder for them. */
  async shoot(name: string): Promise<void> {
    const folder = Deno.env.get("ETCD_PG_SYNC_TEST_SCREENSHOTS");
    if (!folder) return;
    for (const [view, { colorScheme, viewport }] of Object.entries(VIEWS)) {
      await this.page.emulateMedia({ colorScheme });
      await this.page.setViewportSize(viewport!);
      await this.page.screenshot({ path: `${folder}/${name}-${view}.png`, fullPage: true });
    }
  }
}
