//! The XML of STS, read strictly: in its namespace, each element once, and whatever isn't what is documented is no answer.

use roxmltree::{Document, Node, ParsingOptions};

use super::{AwsKeys, NotObtained, Obtained, Secret, classified};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// An answer has some twenty nodes.
const NODES: u32 = 256;
/// STS says that no session token is near it; SDKs keep it in a header.
const TOKEN_BYTES: usize = 16 * 1024;

/// Reads the answer to `action` (`AssumeRole`), received at `now` (Unix seconds).
///
/// # Errors
/// A refusal, a failure, and whatever is no answer.
pub fn read(
    action: &str,
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
    now: i64,
) -> Result<Obtained, NotObtained> {
    let general = || NotObtained::of_status(status, retry_after);
    let document = match parsed(body) {
        Ok(document) => document,
        Err(why) => return Err(general().unwrap_or(why)),
    };
    let root = document.root_element();
    if status == 200 {
        return obtained(action, root, now);
    }
    let error = child(root, "ErrorResponse", root.tag_name().name()).and_then(|()| {
        let error = only(root, "Error")?;
        Ok(classified(
            text(error, "Code")?,
            text(error, "Message").unwrap_or_default(),
            status,
            retry_after,
        ))
    });
    Err(error.unwrap_or_else(|why| general().unwrap_or(why)))
}

fn parsed(body: &[u8]) -> Result<Document<'_>, NotObtained> {
    let text = std::str::from_utf8(body).map_err(|_| NotObtained::NotAnAnswer("it isn't UTF-8"))?;
    let options = ParsingOptions {
        // No entities of its own: nothing expands.
        allow_dtd: false,
        nodes_limit: NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options)
        .map_err(|_| NotObtained::NotAnAnswer("it isn't XML"))
}

fn obtained(action: &str, root: Node<'_, '_>, now: i64) -> Result<Obtained, NotObtained> {
    child(root, &format!("{action}Response"), root.tag_name().name())?;
    let result = only(root, &format!("{action}Result"))?;
    let credentials = only(result, "Credentials")?;
    let token = |name| {
        let text = text(credentials, name)?;
        let plain = !text.is_empty()
            && text.len() <= TOKEN_BYTES
            && text.bytes().all(|b| b.is_ascii_graphic());
        plain
            .then_some(text)
            .ok_or(NotObtained::NotAnAnswer("a key of it is no key"))
    };
    let expires = text(credentials, "Expiration")?
        .parse::<jiff::Timestamp>()
        .map_err(|_| NotObtained::NotAnAnswer("its Expiration is no time"))?
        .as_second();
    if expires <= now {
        return Err(NotObtained::NotAnAnswer("its keys have expired already"));
    }
    let user = only(result, "AssumedRoleUser").and_then(|user| text(user, "Arn"));
    // `arn:aws:sts::ACCOUNT:assumed-role/…`
    let account = user.ok().and_then(|arn| arn.split(':').nth(4));
    let account = account.filter(|a| a.len() == 12 && a.bytes().all(|b| b.is_ascii_digit()));
    Ok(Obtained::Aws(AwsKeys {
        access_key_id: token("AccessKeyId")?.into(),
        secret_access_key: Secret::new(token("SecretAccessKey")?.into()),
        session_token: Secret::new(token("SessionToken")?.into()),
        expires,
        account: account.map(Into::into),
    }))
}

/// Whether `node` is the element `name` of the protocol.
fn child(node: Node<'_, '_>, name: &str, is: &str) -> Result<(), NotObtained> {
    if is == name && node.tag_name().namespace() == Some(NAMESPACE) {
        return Ok(());
    }
    Err(NotObtained::NotAnAnswer("it is another document"))
}

/// The one element of this name below `node`.
fn only<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Result<Node<'a, 'i>, NotObtained> {
    let mut all = node
        .children()
        .filter(|n| n.has_tag_name((NAMESPACE, name)));
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(NotObtained::NotAnAnswer("an element is missing")),
        (Some(_), Some(_)) => Err(NotObtained::NotAnAnswer("an element is there twice")),
    }
}

/// The text of the one element of this name below `node`, which holds nothing but text.
fn text<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, NotObtained> {
    let node = only(node, name)?;
    let mut inside = node.children();
    match (inside.next(), inside.next()) {
        (None, _) => Ok(""),
        (Some(one), None) if one.is_text() => Ok(one.text().unwrap_or_default().trim()),
        _ => Err(NotObtained::NotAnAnswer("an element holds more than text")),
    }
}
