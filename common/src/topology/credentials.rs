//! Whether a variable of a container looks like a credential: by its name, or by its value. A guess that only ever warns.

/// Words that make a name one of a credential, as whole parts between underscores.
const NAMES: [&str; 12] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PWD",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
    "PRIVATEKEY",
    "SECRETKEY",
];
/// Pairs of words that do, one behind the other.
const PAIRS: [(&str, &str); 7] = [
    ("API", "KEY"),
    ("PRIVATE", "KEY"),
    ("ACCESS", "KEY"),
    ("SECRET", "KEY"),
    ("ENCRYPTION", "KEY"),
    ("SIGNING", "KEY"),
    ("MASTER", "KEY"),
];
/// Last words of names that say something about a credential instead of being one.
const ABOUT: [&str; 20] = [
    "FILE",
    "PATH",
    "DIR",
    "URL",
    "URI",
    "HOST",
    "TTL",
    "EXPIRY",
    "EXPIRES",
    "EXPIRATION",
    "LIFETIME",
    "LENGTH",
    "NAME",
    "ID",
    "TYPE",
    "POLICY",
    "ALGORITHM",
    "HEADER",
    "TIMEOUT",
    "ENABLED",
];
/// First words that do.
const ALLOW: [&str; 5] = ["ALLOW", "ENABLE", "DISABLE", "USE", "REQUIRE"];
/// How tokens begin that are known by their looks, and how long they are at least.
const PREFIXES: [(&str, usize); 15] = [
    ("ghp_", 36),
    ("gho_", 36),
    ("ghs_", 36),
    ("ghu_", 36),
    ("github_pat_", 40),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("xapp-", 20),
    ("AKIA", 20),
    ("ASIA", 20),
    ("AIza", 35),
    ("sk_live_", 20),
    ("rk_live_", 20),
    ("AGE-SECRET-KEY-1", 50),
];

/// Whether `name=value` looks like a credential.
pub(crate) fn looks_like_one(name: &str, value: &str) -> bool {
    let is_word = matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "1" | "true" | "false" | "yes" | "no" | "on" | "off");
    !is_word && (named(name) || shaped(value.trim()))
}

fn named(name: &str) -> bool {
    // `PWD` alone is the working folder.
    if name.eq_ignore_ascii_case("pwd") || name.eq_ignore_ascii_case("oldpwd") {
        return false;
    }
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(['_', '-', '.']).filter(|word| !word.is_empty()).collect();
    if words.last().is_some_and(|last| ABOUT.contains(last)) || words.first().is_some_and(|first| ALLOW.contains(first)) {
        return false;
    }
    // `PGPASSWORD`, `DBPASSWORD`: nothing else ends so.
    words.iter().any(|word| NAMES.contains(word) || word.ends_with("PASSWORD") || word.ends_with("APIKEY"))
        || words.windows(2).any(|pair| matches!(pair, [first, second] if PAIRS.contains(&(*first, *second))))
}

fn shaped(value: &str) -> bool {
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----") {
        return true;
    }
    let is_one_word = !value.contains(char::is_whitespace);
    is_one_word
        && (PREFIXES.iter().any(|(prefix, long)| value.starts_with(prefix) && value.len() >= *long) || web_token(value) || in_url(value))
}

/// A signed JSON web token.
fn web_token(value: &str) -> bool {
    let parts: Vec<&str> = value.split('.').collect();
    let plain = |part: &&str| part.len() > 10 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    value.starts_with("eyJ") && parts.len() == 3 && parts.iter().all(plain)
}

/// `scheme://user:password@host`.
fn in_url(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let user = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    user.is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_seen() {
        for name in [
            "PASSWORD",
            "DB_PASSWORD",
            "db-password",
            "MYSQL_ROOT_PASSWORD",
            "PGPASSWORD",
            "JWT_SECRET",
            "API_KEY",
            "APIKEY",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "SSH_PRIVATE_KEY",
            "app.secret",
        ] {
            assert!(looks_like_one(name, "hunter2"), "{name}");
        }
        for value in [
            "-----BEGIN OPENSSH PRIVATE KEY-----\nabc",
            "ghp_0123456789012345678901234567890123456789",
            "postgres://app:hunter2@db:5432/app",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijklmno",
            "AKIAIOSFODNN7EXAMPLE",
        ] {
            assert!(looks_like_one("X", value), "{value}");
        }
    }

    #[test]
    fn what_only_speaks_of_one_is_not() {
        for (name, value) in [
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/db"),
            ("TOKEN_TTL", "3600"),
            ("MAX_TOKENS", "100"),
            ("ALLOW_EMPTY_PASSWORD", "maybe"),
            ("PASSWORD", ""),
            ("MYSQL_RANDOM_ROOT_PASSWORD", "yes"),
            ("AWS_ACCESS_KEY_ID", "x"),
            ("PWD", "/srv"),
            ("KEYBOARD", "us"),
            ("SECRETARY", "anne"),
            ("PUBLIC_KEY", "abc"),
            ("X", "https://example.com/a:b@c"),
            ("X", "https://user@example.com"),
            ("X", "-----BEGIN CERTIFICATE-----"),
            ("X", "ghp_ is a prefix"),
        ] {
            assert!(!looks_like_one(name, value), "{name}");
        }
    }
}
