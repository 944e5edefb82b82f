use crate::policy::Decision;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    #[default]
    Standard,
    Off,
}
pub(crate) fn write(_: HeaderStyle, _: &Decision, _: &mut http::HeaderMap) {}
