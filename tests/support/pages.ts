/** The pages of a running program, as a probe and Prometheus read them. */

import type { View } from "../../lib/core/view.ts";
import type { Sample as Point } from "../../lib/page/recorder.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { eventually } from "./eventually.ts";

/** One line of `/metrics`. */
export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

type Decoder = TransformStream<Uint8Array, string>;

export class Door {
  readonly port = freePort();
  /** For the program. */
  readonly args = ["--listen", `127.0.0.1:${this.port}`];
  readonly url = `http://127.0.0.1:${this.port}`;

  async get(path: string): Promise<{ status: number; text: string; type: string | null }> {
    const response = await fetch(`${this.url}${path}`);
    return {
      status: response.status,
      text: await response.text(),
      type: response.headers.get("content-type"),
    };
  }

  /** The first that the page is told when it is opened. */
  async frame(): Promise<{ view: View; samples: Point[] }> {
    const response = await fetch(`${this.url}/events`);
    let text = "";
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream() as Decoder)) {
      text += chunk;
      const [, view, samples] = /^event: view\ndata: (.*)\n\nevent: samples\ndata: (.*)\n\n/.exec(text) ?? [];
      if (samples) return { view: JSON.parse(view), samples: JSON.parse(samples) };
    }
    throw new Error(`The feed ended after '${text}'`);
  }

  /** The probe's answer, once it has this status; and where `why` is given, once it says that. */
  async untilReady(status: 200 | 503, why = /./): Promise<string> {
    return await eventually(async () => {
      const answer = await this.get("/readyz");
      if (answer.status === status && why.test(answer.text)) return answer.text;
      throw new Error(`/readyz says ${answer.status} '${answer.text.trim()}'`);
    }, { timeoutMs: 30_000 });
  }

  async samples(): Promise<Sample[]> {
    return parse((await this.get("/metrics")).text);
  }

  /** The value of the one sample with these labels, among others. */
  async value(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
    return (await this.samples()).find((sample) =>
      sample.name === `etcd_pg_sync_${name}` &&
      Object.entries(labels).every(([label, value]) => sample.labels[label] === value)
    )?.value;
  }

  /** Waits until the metric is as wanted. */
  untilValue(
    name: string,
    labels: Record<string, string>,
    wanted: (value: number) => boolean,
  ): Promise<number> {
    return eventually(async () => {
      const value = await this.value(name, labels);
      if (value !== undefined && wanted(value)) return { value };
      throw new Error(`${name} ${JSON.stringify(labels)} is ${value}`);
    }, { timeoutMs: 30_000 }).then(({ value }) => value);
  }
}

/** Prometheus' text format, without time stamps. */
export function parse(page: string): Sample[] {
  return page.split("\n").filter((line) => line !== "" && !line.startsWith("#")).map((line) => {
    const [, name, labels = "", value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line)!;
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, text]) => [label, text]);
    return { name, labels: Object.fromEntries(pairs), value: value === "+Inf" ? Infinity : Number(value) };
  });
}
