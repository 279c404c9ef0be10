using System;

namespace Gateway.Client
{
    /// <summary>The URL of a gateway, without a fragment.</summary>
    internal sealed class WebSocketUrl
    {
        private readonly string _beforeQuery;
        /// <summary>The query without its question mark. May be empty.</summary>
        private readonly string _query;

        public bool IsSecure { get; }

        private WebSocketUrl(string beforeQuery, string query, bool isSecure)
        {
            _beforeQuery = beforeQuery;
            _query = query;
            IsSecure = isSecure;
        }

        /// <summary>Returns null if the text is no URL of a WebSocket.</summary>
        public static WebSocketUrl Parse(string text)
        {
            Uri uri;
            if (!Uri.TryCreate(text, UriKind.Absolute, out uri)) return null;
            if (uri.Scheme != "ws" && uri.Scheme != "wss") return null;
            const UriComponents BeforeQuery = UriComponents.SchemeAndServer | UriComponents.Path;
            return new WebSocketUrl(
                uri.GetComponents(BeforeQuery, UriFormat.UriEscaped),
                uri.GetComponents(UriComponents.Query, UriFormat.UriEscaped),
                uri.Scheme == "wss");
        }

        /// <summary>Returns this URL with a query of its own, or with that of the other one.</summary>
        public WebSocketUrl WithQueryOf(WebSocketUrl other)
        {
            return _query.Length > 0 ? this : new WebSocketUrl(_beforeQuery, other._query, IsSecure);
        }

        /// <summary>Returns the text of the URL with these parameters behind its own ones.</summary>
        public string With(string parameters)
        {
            return _beforeQuery + "?" + (_query.Length > 0 ? _query + "&" : "") + parameters;
        }

        public override string ToString()
        {
            return _query.Length > 0 ? _beforeQuery + "?" + _query : _beforeQuery;
        }
    }
}
