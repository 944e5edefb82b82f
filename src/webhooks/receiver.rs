use http::HeaderMap;

use super::secret::Secrets;
use crate::Error;
use crate::policy::Timestamp;

/// For those who receive webhooks: tells whether a request is signed, and new.
///
/// ```
/// use http::HeaderMap;
/// use tower_limitry::webhooks::Receiver;
///
/// let receiver = Receiver::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let mut headers = HeaderMap::new();
/// headers.insert("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse()?);
/// headers.insert("webhook-timestamp", "1614265330".parse()?);
/// let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
/// headers.insert("webhook-signature", signature.parse()?);
///
/// let body = br#"{"test": 2432232314}"#;
/// let now = "2021-02-25T15:02:30Z".parse::<tower_limitry::policy::Timestamp>()?;
/// assert_eq!(receiver.verify(&headers, body, now)?, "msg_p5jXN8AQM9LWM0D4loKWxJek");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Receiver(Secrets);

/// How far the time of a request may be from now, either way, in seconds.
const TOLERANCE: u64 = 300;

impl Receiver {
    /// Knows requests by these secrets: one, or several that stand apart by spaces while one takes
    /// the place of another.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a text that is no secret.
    pub fn new(secrets: &str) -> Result<Self, Error> {
        Secrets::parse(secrets).map(Self)
    }

    /// The id of the delivery, if the request was signed by the sender no more than 300 seconds from
    /// now. The id is the same however often it is sent: who remembers it acts once.
    ///
    /// The body is the one that came, byte by byte. The comparison takes the same time wherever
    /// signatures differ.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other request; answer it 400 or 401.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: impl Into<Timestamp>,
    ) -> Result<&'a str, Error> {
        let header = |name| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| Error::invalid(name, "is missing; only signed requests are taken"))
        };
        let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
        let sent: i64 = timestamp
            .parse()
            .map_err(|_| Error::invalid("webhook-timestamp", "is no number of seconds"))?;
        if sent.abs_diff(now.into().as_seconds()) > TOLERANCE {
            let problem = "is too far from now; set the clocks, or it was sent long ago";
            return Err(Error::invalid("webhook-timestamp", problem));
        }
        match self.0.signed(id, timestamp, body, header("webhook-signature")?) {
            true => Ok(id),
            false => Err(Error::invalid("webhook-signature", "is by none of the secrets")),
        }
    }
}
