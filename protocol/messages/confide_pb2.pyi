from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("join", "train", "evaluate", "deal", "confirm", "unmask", "open", "count", "head")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    DEAL_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_FIELD_NUMBER: _ClassVar[int]
    UNMASK_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    join: Join
    train: Train
    evaluate: Evaluate
    deal: Deal
    confirm: Confirm
    unmask: Unmask
    open: Open
    count: Count
    head: bytes
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., train: _Optional[_Union[Train, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ..., deal: _Optional[_Union[Deal, _Mapping]] = ..., confirm: _Optional[_Union[Confirm, _Mapping]] = ..., unmask: _Optional[_Union[Unmask, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., count: _Optional[_Union[Count, _Mapping]] = ..., head: _Optional[bytes] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("manifest", "signature", "last", "start")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    last: Receipt
    start: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., last: _Optional[_Union[Receipt, _Mapping]] = ..., start: _Optional[bytes] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("manifest_digest", "round", "adapter", "cohort", "next", "noise_std", "roster", "beside")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    NOISE_STD_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    round: int
    adapter: bytes
    cohort: Cohort
    next: Roster
    noise_std: float
    roster: Roster
    beside: bytes
    def __init__(self, manifest_digest: _Optional[bytes] = ..., round: _Optional[int] = ..., adapter: _Optional[bytes] = ..., cohort: _Optional[_Union[Cohort, _Mapping]] = ..., next: _Optional[_Union[Roster, _Mapping]] = ..., noise_std: _Optional[float] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., beside: _Optional[bytes] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("manifest_digest", "adapter", "cohort")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    adapter: bytes
    cohort: Cohort
    def __init__(self, manifest_digest: _Optional[bytes] = ..., adapter: _Optional[bytes] = ..., cohort: _Optional[_Union[Cohort, _Mapping]] = ...) -> None: ...

class Deal(_message.Message):
    __slots__ = ("manifest_digest", "roster")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    roster: Roster
    def __init__(self, manifest_digest: _Optional[bytes] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ...) -> None: ...

class Confirm(_message.Message):
    __slots__ = ("manifest_digest", "number", "survivors", "digests")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    number: int
    survivors: _containers.RepeatedScalarFieldContainer[str]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, manifest_digest: _Optional[bytes] = ..., number: _Optional[int] = ..., survivors: _Optional[_Iterable[str]] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Unmask(_message.Message):
    __slots__ = ("manifest_digest", "number", "survivors", "signatures")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    number: int
    survivors: _containers.RepeatedScalarFieldContainer[str]
    signatures: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, manifest_digest: _Optional[bytes] = ..., number: _Optional[int] = ..., survivors: _Optional[_Iterable[str]] = ..., signatures: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("manifest_digest", "number", "updates", "signatures")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    number: int
    updates: _containers.RepeatedCompositeFieldContainer[Encrypted]
    signatures: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, manifest_digest: _Optional[bytes] = ..., number: _Optional[int] = ..., updates: _Optional[_Iterable[_Union[Encrypted, _Mapping]]] = ..., signatures: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("manifest_digest", "cohort", "bins")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    cohort: Cohort
    bins: int
    def __init__(self, manifest_digest: _Optional[bytes] = ..., cohort: _Optional[_Union[Cohort, _Mapping]] = ..., bins: _Optional[int] = ...) -> None: ...

class Encrypted(_message.Message):
    __slots__ = ("site", "update", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    update: bytes
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., update: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Signed(_message.Message):
    __slots__ = ("site", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("site", "identity", "key", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    identity: bytes
    key: bytes
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., identity: _Optional[bytes] = ..., key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("number", "members")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    number: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, number: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Cohort(_message.Message):
    __slots__ = ("number", "dealt")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEALT_FIELD_NUMBER: _ClassVar[int]
    number: int
    dealt: _containers.RepeatedCompositeFieldContainer[Dealt]
    def __init__(self, number: _Optional[int] = ..., dealt: _Optional[_Iterable[_Union[Dealt, _Mapping]]] = ...) -> None: ...

class Dealt(_message.Message):
    __slots__ = ("site", "key", "commitment", "sealed")
    SITE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    site: str
    key: bytes
    commitment: bytes
    sealed: bytes
    def __init__(self, site: _Optional[str] = ..., key: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class Dealing(_message.Message):
    __slots__ = ("key", "commitment", "sealed")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    commitment: bytes
    sealed: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, key: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., sealed: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("site", "joined", "trained", "refused", "evaluated", "dealing", "confirmed", "unmasked", "opened", "counted")
    SITE_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    DEALING_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    UNMASKED_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    site: str
    joined: Joined
    trained: Trained
    refused: Refused
    evaluated: Evaluated
    dealing: Dealing
    confirmed: Confirmed
    unmasked: Unmasked
    opened: Opened
    counted: Counted
    def __init__(self, site: _Optional[str] = ..., joined: _Optional[_Union[Joined, _Mapping]] = ..., trained: _Optional[_Union[Trained, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ..., dealing: _Optional[_Union[Dealing, _Mapping]] = ..., confirmed: _Optional[_Union[Confirmed, _Mapping]] = ..., unmasked: _Optional[_Union[Unmasked, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., counted: _Optional[_Union[Counted, _Mapping]] = ...) -> None: ...

class Joined(_message.Message):
    __slots__ = ("manifest_digest", "public_key", "session_key", "session_signature", "noise_std")
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    SESSION_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NOISE_STD_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: bytes
    public_key: bytes
    session_key: bytes
    session_signature: bytes
    noise_std: float
    def __init__(self, manifest_digest: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., session_key: _Optional[bytes] = ..., session_signature: _Optional[bytes] = ..., noise_std: _Optional[float] = ...) -> None: ...

class Trained(_message.Message):
    __slots__ = ("round", "update", "receipt", "next", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: int
    update: bytes
    receipt: Receipt
    next: Dealing
    signature: bytes
    def __init__(self, round: _Optional[int] = ..., update: _Optional[bytes] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., next: _Optional[_Union[Dealing, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("right", "examples", "receipt", "masked", "personal", "own_steps")
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_FIELD_NUMBER: _ClassVar[int]
    OWN_STEPS_FIELD_NUMBER: _ClassVar[int]
    right: int
    examples: int
    receipt: Receipt
    masked: bytes
    personal: int
    own_steps: Receipt
    def __init__(self, right: _Optional[int] = ..., examples: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., masked: _Optional[bytes] = ..., personal: _Optional[int] = ..., own_steps: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Confirmed(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class Unmasked(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("sum",)
    SUM_FIELD_NUMBER: _ClassVar[int]
    sum: bytes
    def __init__(self, sum: _Optional[bytes] = ...) -> None: ...

class Counted(_message.Message):
    __slots__ = ("counts", "receipt")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    counts: bytes
    receipt: Receipt
    def __init__(self, counts: _Optional[bytes] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("place", "share")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    place: int
    share: bytes
    def __init__(self, place: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("content", "signature")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    signature: bytes
    def __init__(self, content: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "exit_code", "budget_spent", "lost")
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_SPENT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    reason: str
    exit_code: int
    budget_spent: bool
    lost: bool
    def __init__(self, reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., budget_spent: _Optional[bool] = ..., lost: _Optional[bool] = ...) -> None: ...

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
