//! Calls that AWS answers with credentials which were never stored here.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::KeyKind;

use super::Computed;
use super::aws::{PAIR, Request4, ask, now, sha, signed, world};
use crate::support::world::OTHER;
use crate::support::{Reply, World};

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A call that is signed with the key's stand-ins, for this service.
fn call(
    world: &World,
    computed: &Computed,
    service: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let time = now(world);
    let field = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut all: Vec<_> = [("host", OTHER), ("x-amz-date", time.as_str())].iter().map(field).collect();
    all.extend(headers.iter().map(field));
    let declared =
        headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").map(|(_, value)| (*value).to_owned());
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let request = Request4 {
        method: if body.is_empty() { "GET" } else { "POST" },
        path: path.to_owned(),
        query: query.to_owned(),
        headers: all,
        payload: declared.unwrap_or_else(|| sha(body.as_bytes())),
        scope: format!("{}/eu-west-1/{service}/aws4_request", &time[..8]),
        time,
    };
    signed(&request, computed.token(), &computed.secret, body.to_owned())
}

#[tokio::test]
async fn call_that_hands_out_credentials_is_withheld_and_nothing_is_made_upstream() {
    let world = world().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let form = ("content-type", FORM);
    let assume = "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=x&Version=2011-06-15";
    let declared = sha(assume.as_bytes());
    let registry = ("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken");
    for (service, uri, headers, body) in [
        ("sts", "/", vec![form], assume),
        ("sts", "/", vec![form, ("x-amz-content-sha256", declared.as_str())], assume),
        ("sts", "/", vec![form, ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], assume),
        ("sts", "/", vec![form], "Action=GetSessionToken&Version=2011-06-15"),
        ("sts", "/", vec![form], "Action=GetCallerIdentity&Action=AssumeRole"),
        ("sts", "/", vec![("content-encoding", "gzip")], "no form at all"),
        ("sts", "/?Action=GetFederationToken&Name=x", vec![], ""),
        ("iam", "/", vec![form], "Action=CreateAccessKey&UserName=x&Version=2010-05-08"),
        ("ecr", "/", vec![registry], "{}"),
        ("s3", "/bucket?session=", vec![("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], ""),
    ] {
        let answer = ask(&world, call(&world, &computed, service, uri, &headers, body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (403, "credentials_withheld"),
            "{service} {uri} {body}: {}",
            answer.text()
        );
    }
    // Nor without a signature, for which a token of another issuer is enough.
    let web = "Action=AssumeRoleWithWebIdentity&RoleArn=x&RoleSessionName=x&WebIdentityToken=eyJ&Version=2011-06-15";
    let unsigned = |uri: &str, body: &str| {
        let request = Request::post(uri).header("host", OTHER).header("content-type", FORM);
        request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
    };
    assert_eq!(ask(&world, unsigned("/", web)).await.code(), "credentials_withheld");
    assert_eq!(ask(&world, unsigned(&format!("/?{web}"), "")).await.code(), "credentials_withheld");
    assert_eq!((world.upstream.received().len(), world.records_of("intent").len()), (0, 0));

    for (service, body) in
        [("sts", "Action=GetCallerIdentity&Version=2011-06-15"), ("iam", "Action=ListAccessKeys&Version=2010-05-08")]
    {
        let declared = sha(body.as_bytes());
        for headers in [vec![form], vec![form, ("x-amz-content-sha256", declared.as_str())]] {
            let answer = ask(&world, call(&world, &computed, service, "/", &headers, body)).await;
            assert_eq!(answer.status, 200, "{service} {body}: {}", answer.text());
            assert_eq!(world.upstream.received().pop().expect("received").body, body.as_bytes());
        }
    }
    // The body that is looked at is the one that was signed.
    let mut swapped = call(
        &world,
        &computed,
        "sts",
        "/",
        &[form, ("x-amz-content-sha256", &sha(b"Action=GetCallerIdentity"))],
        assume,
    );
    *swapped.body_mut() = Full::new(Bytes::from_static(b"Action=GetCallerIdentity&x=y"));
    assert_eq!(ask(&world, swapped).await.code(), "signature_mismatch");
}

#[tokio::test]
async fn policy_lets_such_replies_pass() {
    let policy =
        "version: 1\nname: p\nrules: [{ name: all, allow: { paths: [\"/**\"] } }]\nreplies: { credentials: forward }\n";
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).policy(policy);
    let world = world.answer(|_| Reply::text("<SecretAccessKey>fresh</SecretAccessKey>")).start().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let answer = ask(&world, call(&world, &computed, "sts", "/", &[("content-type", FORM)], "Action=AssumeRole")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "<SecretAccessKey>fresh</SecretAccessKey>"));
}
