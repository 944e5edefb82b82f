use crate::policy::Denial;
use bytes::Bytes;
use http::Response;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenialStyle {
    #[default]
    ProblemDetails,
}
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    Denied(Denial),
    MissingCustomer,
    Unavailable,
    Conflict,
    InvalidIdempotencyKey,
    Misconfigured,
}
impl Refusal {
    pub fn as_str(&self) -> &'static str {
        "x"
    }
}
pub(crate) fn response(refusal: &Refusal, _: DenialStyle) -> Response<Bytes> {
    let mut r = Response::new(Bytes::from_static(b"{}"));
    *r.status_mut() = match refusal {
        Refusal::Denied(_) => 429,
        Refusal::MissingCustomer => 401,
        Refusal::Unavailable => 503,
        Refusal::Conflict => 409,
        Refusal::InvalidIdempotencyKey => 400,
        Refusal::Misconfigured => 500,
    }
    .try_into()
    .unwrap();
    r
}
