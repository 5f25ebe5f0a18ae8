from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("join", "train", "evaluate")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    join: Join
    train: Train
    evaluate: Evaluate
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., train: _Optional[_Union[Train, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("manifest", "signature")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("manifest_digest", "round", "adapter")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    round: int
    adapter: bytes
    def __init__(self, manifest_digest: _Optional[bytes] = ..., round: _Optional[int] = ..., adapter: _Optional[bytes] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("manifest_digest", "adapter")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    adapter: bytes
    def __init__(self, manifest_digest: _Optional[bytes] = ..., adapter: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("site", "joined", "trained", "refused", "evaluated")
    SITE_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    site: str
    joined: Joined
    trained: Trained
    refused: Refused
    evaluated: Evaluated
    def __init__(self, site: _Optional[str] = ..., joined: _Optional[_Union[Joined, _Mapping]] = ..., trained: _Optional[_Union[Trained, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ...) -> None: ...

class Joined(_message.Message):
    __slots__ = ("manifest_digest", "public_key")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    public_key: bytes
    def __init__(self, manifest_digest: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class Trained(_message.Message):
    __slots__ = ("round", "update", "receipt")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    round: int
    update: bytes
    receipt: Receipt
    def __init__(self, round: _Optional[int] = ..., update: _Optional[bytes] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("right", "examples", "receipt")
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    right: int
    examples: int
    receipt: Receipt
    def __init__(self, right: _Optional[int] = ..., examples: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("content", "signature")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    signature: bytes
    def __init__(self, content: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "exit_code", "budget_spent")
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_SPENT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    exit_code: int
    budget_spent: bool
    def __init__(self, reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., budget_spent: _Optional[bool] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("header", "payload", "signature")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    payload: bytes
    signature: bytes
    def __init__(self, header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AgentHealth(_message.Message):
    __slots__ = ("site", "version", "state", "run", "round", "step", "steps", "queued", "uptime")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: str
    state: str
    run: str
    round: int
    step: int
    steps: int
    queued: int
    uptime: float
    def __init__(self, site: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., queued: _Optional[int] = ..., uptime: _Optional[float] = ...) -> None: ...
