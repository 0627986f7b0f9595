//! Calls that AWS answers with fresh credentials: temporary pairs, access keys, tokens of other services.
//!
//! What is in such a reply is worth its own everywhere, and nobody could tell it from other text, since it
//! was never stored here. So the calls themselves are known by name: an access key that is made and not
//! handed over would be left behind.

use http::Method;

use super::parameters::decoded;

/// A signed call, as far as its operation is told by it.
pub struct Call<'a> {
    /// The service, as the signature names it.
    pub service: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a str>,
    /// The header X-Amz-Target.
    pub target: Option<&'a str>,
    /// The body, if [`needs_body`] says so and it could be read.
    pub body: Option<&'a [u8]>,
}

/// Whether the operation may stand in the body (AWS Query protocol), and in nothing else.
#[must_use]
pub fn needs_body(service: &str) -> bool {
    QUERY_SERVICES.iter().any(|known| known.eq_ignore_ascii_case(service))
}

/// The operation that hands out credentials, if the call is one of those that do. Of the Security Token
/// Service every call is but those that are known not to, and so is one that can't be read where it has to be.
#[must_use]
pub fn operation(call: &Call<'_>) -> Option<String> {
    let mut named: Vec<String> = call.query.map(|query| actions(query.as_bytes())).unwrap_or_default();
    named.extend(call.body.map(actions).unwrap_or_default());
    if named.is_empty() && needs_body(call.service) {
        return Some("a call whose Action can't be read".to_owned());
    }
    named.extend(call.target.map(|target| target.rsplit('.').next().unwrap_or(target).to_owned()));
    let is = |list: &[&str], name: &String| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    if call.service.eq_ignore_ascii_case("sts") {
        return named.into_iter().find(|name| !is(HARMLESS_OF_STS, name));
    }
    let by_path = |(service, method, what): &&(&str, &str, Where)| {
        call.service.eq_ignore_ascii_case(service) && call.method.as_str() == *method && what.fits(call)
    };
    let found = named.into_iter().find(|name| is(OPERATIONS, name));
    found.or_else(|| PATHS.iter().find(by_path).map(|(service, _, what)| format!("{service} {}", what.text())))
}

/// Whether a call without a signature may be one of those that a token of another issuer is enough for:
/// `AssumeRoleWithWebIdentity`, `AssumeRoleWithSAML` and their likes.
#[must_use]
pub fn may_be_unsigned(method: &Method, host: &str, query: Option<&str>, content_type: Option<&[u8]>) -> bool {
    let sts = host.split('.').any(|label| label == "sts" || label.starts_with("sts-"));
    let form =
        content_type.is_some_and(|kind| kind.get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM)));
    let asks = |name: &String| name.to_ascii_lowercase().starts_with("assumerole");
    sts || (method == Method::POST && form) || query.is_some_and(|query| actions(query.as_bytes()).iter().any(asks))
}

const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// The values of every `Action` in a query or form.
fn actions(text: &[u8]) -> Vec<String> {
    let pairs = text.split(|byte| matches!(byte, b'&' | b';'));
    let named = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let text = |part: &[u8]| {
            let part = String::from_utf8_lossy(part).replace('+', " ");
            // What can't be decoded names nothing that is known.
            decoded(&part).unwrap_or(part).trim().to_owned()
        };
        text(&pair[..at]).eq_ignore_ascii_case("action").then(|| text(&pair[at + 1..]))
    });
    named.collect()
}

/// What tells an operation of a REST service.
#[derive(Clone, Copy)]
enum Where {
    /// The whole path.
    Path(&'static str),
    /// How the path ends.
    End(&'static str),
    /// A parameter of the query, whatever its value.
    Parameter(&'static str),
}

impl Where {
    fn fits(self, call: &Call<'_>) -> bool {
        match self {
            Self::Path(path) => call.path == path,
            Self::End(end) => call.path.trim_end_matches('/').ends_with(end),
            Self::Parameter(name) => {
                call.query.unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some(name))
            }
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Path(text) | Self::End(text) | Self::Parameter(text) => text,
        }
    }
}

/// Services of the AWS Query protocol that hand out credentials.
const QUERY_SERVICES: &[&str] = &["sts", "iam", "redshift"];
/// What the Security Token Service answers without handing out any.
const HARMLESS_OF_STS: &[&str] = &["GetCallerIdentity", "GetAccessKeyInfo", "DecodeAuthorizationMessage"];
/// Operations of other services, by Action or X-Amz-Target.
const OPERATIONS: &[&str] = &[
    // Identity and Access Management.
    "CreateAccessKey",
    "CreateServiceSpecificCredential",
    "ResetServiceSpecificCredential",
    "CreateLoginProfile",
    "UpdateLoginProfile",
    // Elastic Container Registry.
    "GetAuthorizationToken",
    // Cognito identity pools.
    "GetCredentialsForIdentity",
    "GetOpenIdToken",
    "GetOpenIdTokenForDeveloperIdentity",
    // Redshift.
    "GetClusterCredentials",
    "GetClusterCredentialsWithIAM",
    "GetCredentials",
    // Lightsail.
    "CreateBucketAccessKey",
    "GetInstanceAccessDetails",
    "GetRelationalDatabaseMasterUserPassword",
];
/// Operations that only method and path tell.
const PATHS: &[(&str, &str, Where)] = &[
    ("s3", "GET", Where::Parameter("session")),
    ("s3express", "GET", Where::Parameter("session")),
    ("s3", "GET", Where::End("/accessgrantsinstance/dataaccess")),
    ("codeartifact", "POST", Where::Path("/v1/authorization-token")),
    ("eks-auth", "POST", Where::End("/assume-role-identity")),
    ("lakeformation", "POST", Where::Path("/GetTemporaryGlueTableCredentials")),
    ("lakeformation", "POST", Where::Path("/GetTemporaryGluePartitionCredentials")),
    ("lakeformation", "POST", Where::Path("/AssumeDecoratedRoleWithSAML")),
    ("sso-oauth", "POST", Where::Path("/token")),
    ("rolesanywhere", "POST", Where::Path("/sessions")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_hand_out_credentials_are_known_however_they_are_written() {
        let of = |service, method: &Method, uri: &str, target, body: Option<&str>| {
            let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
            operation(&Call { service, method, path, query, target, body: body.map(str::as_bytes) }).is_some()
        };
        for (service, uri, target, body, hands_out) in [
            ("sts", "/", None, Some("Action=GetCallerIdentity&Version=2011-06-15"), false),
            ("sts", "/?Action=GetCallerIdentity", None, None, false),
            ("sts", "/", None, Some("Action=AssumeRole&RoleArn=x"), true),
            ("sts", "/", None, Some("Version=2011-06-15&%41ction=Assume%52ole"), true),
            ("sts", "/", None, Some("Action=GetCallerIdentity&Action=AssumeRole"), true),
            ("sts", "/?Action=GetCallerIdentity", None, Some("Action=GetSessionToken"), true),
            ("sts", "/", None, Some("Action=SomethingNew"), true),
            ("sts", "/", None, None, true),
            ("sts", "/", None, Some(""), true),
            ("iam", "/", None, Some("Action=ListUsers"), false),
            ("iam", "/", None, Some("Action=createaccesskey"), true),
            ("iam", "/", None, Some("\u{1f}\u{8b} coded"), true),
            ("iam", "/", None, None, true),
            ("ecr", "/", Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"), Some("{}"), true),
            ("ecr", "/", Some("AmazonEC2ContainerRegistry_V20150921.DescribeImages"), Some("{}"), false),
            ("codeartifact", "/v1/authorization-token?domain=x", None, None, true),
            ("dynamodb", "/", Some("DynamoDB_20120810.GetItem"), Some("{\"Action=\": 1}"), false),
        ] {
            assert_eq!(of(service, &Method::POST, uri, target, body), hands_out, "{service} {uri} {target:?} {body:?}");
        }
        for (uri, hands_out) in
            [("/bucket?session", true), ("/?session=", true), ("/key?sessions", false), ("/session", false)]
        {
            assert_eq!(of("s3", &Method::GET, uri, None, None), hands_out, "{uri}");
        }
    }

    #[test]
    fn call_that_needs_no_signature_is_taken_for_one_where_it_may_be() {
        let form = Some(&b"Application/x-www-form-urlencoded; charset=utf-8"[..]);
        for (method, host, query, kind, may_be) in [
            (Method::POST, "sts.us-east-1.amazonaws.com", None, None, true),
            (Method::GET, "vpce-1.sts.us-east-1.vpce.amazonaws.com", None, None, true),
            (Method::POST, "minio.test", None, form, true),
            (Method::GET, "minio.test", Some("Action=AssumeRoleWithWebIdentity"), None, true),
            (Method::GET, "bucket.s3.amazonaws.com", Some("list-type=2"), None, false),
            (Method::PUT, "bucket.s3.amazonaws.com", None, form, false),
            (Method::POST, "posts.s3.amazonaws.com", None, Some(&b"multipart/form-data; boundary=x"[..]), false),
        ] {
            assert_eq!(may_be_unsigned(&method, host, query, kind), may_be, "{method} {host} {query:?}");
        }
    }
}
