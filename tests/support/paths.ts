import { fileURLToPath } from "node:url";

/** A path relative to this folder, without a slash at its end. */
export function fromFileUrl(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url)).replace(/\/$/, "");
}
