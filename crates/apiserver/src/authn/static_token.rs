//! Static tokens from a file of `token,user,uid,"group1,group2"` lines (`--token-auth-file`,
//! `k8s.io/apiserver/pkg/authentication/token/tokenfile`).

use std::collections::HashMap;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::user::UserInfo;

/// Users by the hash of their token: a look-up tells nothing by its time.
#[derive(Default)]
pub struct StaticTokens(HashMap<[u8; 32], UserInfo>);

impl StaticTokens {
    /// Reads the file's text. The error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or_else(|| format!("line {}: a quote is not closed", i + 1))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!("line {}: token, user name and uid are needed", i + 1));
            };
            if token.is_empty() {
                return Err(format!("line {}: the token is empty", i + 1));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
            let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
            all.insert(Sha256::digest(token).into(), user);
        }
        Ok(StaticTokens(all))
    }
}

/// The fields of a line of CSV.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        let last = out.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            ' ' if !quoted && last.is_empty() => {}
            c => last.push(c),
        }
    }
    (!quoted).then_some(out)
}

#[async_trait]
impl TokenAuthenticator for StaticTokens {
    async fn token(&self, token: &str, _audiences: &[String]) -> TokenVerdict {
        match self.0.get(&<[u8; 32]>::from(Sha256::digest(token))) {
            Some(user) => TokenVerdict::User(user.clone(), Vec::new()),
            None => TokenVerdict::NotMine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_give_users_and_groups() {
        let tokens = StaticTokens::parse("t1,ann,1,\"dev,ops\"\n# no\n\nt2, bob ,2\n").expect("good");
        let TokenVerdict::User(ann, _) = tokens.token("t1", &[]).await else { panic!("ann is not known") };
        assert_eq!((ann.name.as_str(), ann.uid.as_str()), ("ann", "1"));
        assert_eq!(ann.groups, ["dev", "ops"]);
        assert_eq!(tokens.token("x", &[]).await, TokenVerdict::NotMine);
        assert!(StaticTokens::parse("t,a").is_err());
        assert!(StaticTokens::parse("t,a,1,\"x").is_err());
        assert!(StaticTokens::parse(",a,1").is_err());
    }
}
