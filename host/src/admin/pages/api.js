// Asks the gateway. The token of the operator is kept in the session storage of this tab, and sent as a bearer token.
//
// It is no cookie. A browser sends a cookie of this listener to every port of the same host, and adds it to requests that
// other pages cause. The session storage belongs to this origin, its port included, and ends with the tab.

const KEY = "admin.token";

/** The gateway answered with an error, or not at all (then `status` is 0). */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function send(path, { body, method = body === undefined ? "GET" : "POST" } = {}) {
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(5000),
    });
  } catch (error) {
    throw new ApiError(0, error.name === "TimeoutError" ? "no answer within 5 s" : "no connection");
  }
}

/** Returns the error of an answer whose body did not come, or is not what was asked for. */
function cut(error) {
  return new ApiError(0, error.name === "TimeoutError" ? "no whole answer within 5 s" : "no answer of the gateway");
}

/** Returns the JSON of an answer. An answer whose status is neither 2xx nor in `also` is an error. */
export async function ask(path, { also = [], ...options } = {}) {
  const response = await send(path, options);
  const isGood = response.ok || also.includes(response.status);
  // A refusal may come from a proxy, which answers with a page.
  const json = await response.json().catch((error) => (isGood ? Promise.reject(cut(error)) : {}));
  if (isGood) return json;
  throw new ApiError(response.status, json.error ?? `the gateway answered with status ${response.status}`);
}

/** Returns the text of the metrics. */
export async function metricsText() {
  const response = await send("/metrics");
  if (response.ok) return response.text().catch((error) => Promise.reject(cut(error)));
  const { error } = await response.json().catch(() => ({}));
  throw new ApiError(response.status, error ?? `the gateway answered with status ${response.status}`);
}

/**
 * Returns whether the gateway takes the requests of this page for those of an operator. Readiness is the one path that
 * everybody may ask, and that tells an operator more. So a look at a page without the token is no refused request.
 */
export async function isOperator() {
  const report = await ask("/readyz", { also: [503] });
  return report.plugins !== undefined;
}
