//! A page for people, complete in itself: no script, nothing from elsewhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, header};
use sha2::{Digest, Sha256};

use super::Reply;

/// The content type.
pub const HTML: &str = "text/html";

/// The page with this title, style and body. The title is escaped here; in `body` everything that varies has to be
/// [`escaped`] already. The browser is told to run and load nothing, and to take this one style.
pub fn html(title: &str, style: &str, body: &str) -> Reply {
    let title = escaped(title);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    );
    let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Reply::text(StatusCode::OK, "text/html; charset=utf-8", page)
        .with_header(header::CONTENT_SECURITY_POLICY, &policy)
        .with_header(header::X_FRAME_OPTIONS, "DENY")
        .with_header(header::REFERRER_POLICY, "no-referrer")
        .with_header(header::VARY, "accept")
}

/// Text as it may be put into a page, also into an attribute in quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_cannot_become_markup() {
        assert_eq!(escaped("<b a='1' c=\"2\">&é"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;é");
        assert!(html("</title><script>", "", "").body.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
    }

    #[test]
    fn the_policy_lets_in_the_pages_own_style_and_nothing_else() {
        let reply = html("Title", "body{color:red}", "<p>text</p>");
        // printf %s 'body{color:red}' | openssl dgst -sha256 -binary | base64
        let policy = "default-src 'none'; style-src 'sha256-FcQqt3aNlV7AZnGV4zkQRVeCeJOxbMPnQSx258L803E='; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        assert_eq!(reply.headers[header::CONTENT_SECURITY_POLICY], policy);
    }
}
