/** systemd's end of sd_notify: a socket that keeps what it is told. */
import { eventually } from "./eventually.ts";
import { testedBinary } from "./program.ts";

export interface NotifySocket extends AsyncDisposable {
  /** What the program is started with, as systemd does. */
  env: { NOTIFY_SOCKET: string; RUNTIME_DIRECTORY: string };
  /** What was told so far; each message may have several lines. */
  told: string[];
  /** Waits for a message. */
  until(message: string | RegExp): Promise<void>;
}

export async function notifySocket(): Promise<NotifySocket> {
  // the binary may use systemd's places only
  const dir = await Deno.makeTempDir(testedBinary ? { dir: "/run/user" } : {});
  const path = `${dir}/notify`;
  const socket = Deno.listenDatagram({ transport: "unixpacket", path });
  const told: string[] = [];
  const reading = (async () => {
    for await (const [bytes] of socket) told.push(new TextDecoder().decode(bytes));
  })();
  return {
    env: { NOTIFY_SOCKET: path, RUNTIME_DIRECTORY: dir },
    told,
    async until(message) {
      await eventually(() =>
        told.some((one) => typeof message === "string" ? one === message : message.test(one))
      );
    },
    async [Symbol.asyncDispose]() {
      socket.close();
      await reading;
      await Deno.remove(dir, { recursive: true });
    },
  };
}
