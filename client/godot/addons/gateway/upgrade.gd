# The request with which a connection begins.
extends Reference


# Returns the URL, the subprotocols and the headers of a request that carries the token, unless it is "". Browsers set
# no headers. There, the token is the subprotocol `bearer.TOKEN` if there are others. Otherwise it is the query
# parameter `token`, which proxies may write to their logs.
static func with_token(url: String, protocols: PoolStringArray, token: String, has_headers: bool) -> Array:
	var headers = PoolStringArray()
	if token == "":
		return [url, protocols, headers]
	if has_headers:
		headers.append("Authorization: Bearer " + token)
	elif protocols.empty():
		var separator = "&" if "?" in url else "?"
		url += ("" if url.ends_with("?") else separator) + "token=" + token.percent_encode()
	else:
		protocols.append("bearer." + token)
	return [url, protocols, headers]
