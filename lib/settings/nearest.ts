/** Names that somebody may have meant. */
import { closestMatch } from "leven";

/** `; did you mean '…'?`, or nothing where no name is near. */
export function didYouMean(given: string, known: readonly string[]): string {
  const most = Math.max(2, Math.floor(given.length / 3));
  const nearest = closestMatch(given, known as string[], { maxDistance: most });
  return nearest === undefined ? "" : `; did you mean '${nearest}'?`;
}
