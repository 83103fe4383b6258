/** Requests to the daemon. */

import { harmless } from "./format.js";

/** Longer than any answer of the daemon takes: a connection that hangs is given up. */
const TIMEOUT_MS = 10_000;

/**
 * Return the JSON that the daemon answers. Without a valid session, go to the login. Throws an
 * `Error` with a message for the reader: `isAnswer` tells a refusal from a connection that failed.
 */
export async function api(path, options = {}) {
  let response;
  let body;
  try {
    response = await fetch(path, {
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...options,
    });
    body = await response.json().catch(() => ({}));
  } catch {
    throw Object.assign(new Error("no answer"), { isAnswer: false });
  }
  if (response.status === 401) location.assign("login");
  if (response.ok) return body;
  const reason = body.error ? harmless(body.error) : `HTTP status ${response.status}`;
  throw Object.assign(new Error(reason), { isAnswer: true });
}
