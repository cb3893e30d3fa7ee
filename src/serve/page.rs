//! The dashboard: one self-contained page, and its security headers: no external resources, and no script or
//! style except those in the page, identified by their hashes.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard.html");

static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

pub(super) async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY.as_str())], Html(PAGE)).into_response()
}

/// The content of the page's only element with this tag.
fn hash(tag: &str) -> String {
    let inside =
        PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    let digest = Sha256::digest(inside.map_or("", |(inside, _)| inside));
    format!("sha256-{}", STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue: one self-contained page, no external resources.
    #[test]
    fn the_page_needs_nothing_else() {
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag}");
        }
        for banned in [
            "http://",
            "https://",
            "src=",
            "@import",
            "innerHTML",
            "outerHTML",
            "document.write",
            " style=\"",
            "onclick=",
            "insertAdjacent",
            "eval(",
        ] {
            // The namespace of SVG is only a name; nothing is fetched from it.
            let text = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(banned), "{banned}");
        }
        assert!(POLICY.contains("script-src 'sha256-") && !POLICY.contains("unsafe"), "{}", *POLICY);
        assert_ne!(hash("script"), hash("nothing"));
    }
}
