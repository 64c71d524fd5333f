//! Errors of DNS over QUIC, and their codes (RFC 9250 sections 4.3 and 8.4).

use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};

/// No error: the connection is idle, or the server shuts down.
pub(super) const DOQ_NO_ERROR: VarInt = VarInt::from_u32(0);
/// Internal error of the server.
pub(super) const DOQ_INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
/// Protocol error of the client.
const DOQ_PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
/// The client has cancelled the query.
const DOQ_REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
/// The client is too slow, or exceeds a limit.
pub(super) const DOQ_EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// Reason why a stream, or its connection, cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoqError {
    /// The client has cancelled the query of this stream. Other streams continue.
    RequestCancelled,
    /// The connection is closed.
    ConnectionLost,
    /// The connection was closed by quinn's idle timeout.
    IdleTimeout,
    /// The client has violated RFC 9250: the reason, for the close.
    Protocol(&'static str),
    /// The client is too slow, or exceeds a limit: the reason, for the close.
    ExcessiveLoad(&'static str),
    /// Internal error of the server.
    Internal,
}

impl DoqError {
    /// Returns the code with which the stream is reset, or the connection closed.
    pub(super) fn code(self) -> VarInt {
        match self {
            Self::RequestCancelled => DOQ_REQUEST_CANCELLED,
            Self::ConnectionLost | Self::IdleTimeout => DOQ_NO_ERROR,
            Self::Protocol(_) => DOQ_PROTOCOL_ERROR,
            Self::ExcessiveLoad(_) => DOQ_EXCESSIVE_LOAD,
            Self::Internal => DOQ_INTERNAL_ERROR,
        }
    }
}

impl From<ConnectionError> for DoqError {
    fn from(error: ConnectionError) -> Self {
        if error == ConnectionError::TimedOut { Self::IdleTimeout } else { Self::ConnectionLost }
    }
}

impl From<ReadError> for DoqError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(_) => Self::RequestCancelled,
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Self::Internal,
        }
    }
}

impl From<WriteError> for DoqError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::RequestCancelled,
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Internal,
        }
    }
}

impl From<StoppedError> for DoqError {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => error.into(),
            StoppedError::ZeroRttRejected => Self::Internal,
        }
    }
}
