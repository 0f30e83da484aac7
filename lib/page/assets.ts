/** The page's files, which are part of the program. */
import { createHash } from "node:crypto";
import uplotCss from "uplot/dist/uPlot.min.css" with { type: "text" };
import uplotJs from "uplot/dist/uPlot.iife.min.js" with { type: "text" };
import icon from "./assets/icon.svg" with { type: "text" };
import html from "./assets/index.html" with { type: "text" };
import css from "./assets/page.css" with { type: "text" };
import js from "./assets/page.js" with { type: "text" };
import searchHtml from "./assets/search.html" with { type: "text" };
import { drawing } from "./diagram.ts";

export interface Asset {
  type: string;
  body: string;
}

export interface About {
  stream: string;
  version: string;
  /** Whether keys and values are shown. */
  keys: boolean;
}

const NO_SEARCH =
  "<p>Keys and values are not shown; <code>--page-values</code> shows them, and a search.</p>";

/** The page's files by their paths, and a name of just this code. */
export function pageAssets(about: About): { code: string; assets: Map<string, Asset> } {
  const parts = [html, searchHtml, css, js, uplotCss, uplotJs, icon, JSON.stringify(about)];
  const code = createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 12);
  const values: Record<string, string> = {
    code,
    stream: escape(about.stream),
    version: about.version,
    diagram: drawing(),
    search: about.keys ? searchHtml : NO_SEARCH,
  };
  const page = html.replaceAll(/\{\{ ?(\w+) ?\}\}/g, (_, name) => values[name]);
  const script = "text/javascript; charset=utf-8";
  return {
    code,
    assets: new Map([
      ["/", { type: "text/html; charset=utf-8", body: page }],
      ["/page.css", { type: "text/css; charset=utf-8", body: uplotCss + css }],
      ["/page.js", { type: script, body: js }],
      ["/uplot.js", { type: script, body: uplotJs }],
      ["/icon.svg", { type: "image/svg+xml", body: icon }],
    ]),
  };
}

function escape(text: string): string {
  return text.replaceAll(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
