"""What one mount is told: options, environment variables, a TOML file, and the defaults below them.

Threading: a MountConfig is immutable and may be read from any thread; `load_config` reads os.environ
and files, and is called once, before anything is started.

The sources in order: `-o` options, `OSSFS_*` environment variables, the TOML file (`-o config=FILE` or
OSSFS_CONFIG), defaults.  Whatever cannot be accepted ends in one ConfigError of one line, which names
the option, where it came from, what is wrong and what is accepted.  Credentials are no options: an
argument is seen by every user of the machine.
"""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ossfs import tomlfile
from ossfs.arguments import (
    BUCKET_NAME,
    KERNEL_FLAGS,
    MOUNT8_WORDS,
    names_a_secret,
    parse_source,
    split_options,
)
from ossfs.errors import ConfigError, Contradiction
from ossfs.limits import DEFAULT_CHUNK_SIZE, MAX_PART_SIZE, MIN_CHUNK_SIZE
from ossfs.tomlfile import TomlFile
from ossfs.values import (
    ACLS,
    CREDENTIAL_SOURCES,
    CREDENTIALS_HINT,
    DEFAULT_CACHE,
    DEFAULT_WRITEBACK,
    MIN_CACHE,
    MIN_MEMORY,
    REGION,
    STORAGE_CLASSES,
    default_memory,
    default_state_dir,
    format_size,
    format_traffic,
    one_of,
    parse_bool,
    parse_encrypt,
    parse_endpoint,
    parse_id,
    parse_listen,
    parse_octal,
    parse_path,
    parse_prefix,
    parse_price,
    parse_region,
    parse_seconds,
    parse_size,
    parse_text,
    parse_traffic,
    seconds_between,
    show,
    size_between,
    spelt_as,
    whole,
)

ENV_PREFIX: Final = "OSSFS_"

_PUBLIC_HOST = re.compile(r"oss-([a-z0-9-]+?)(-internal)?\.aliyuncs\.com")


Switch = Annotated[bool, BeforeValidator(parse_bool)]
Mode = Annotated[int, BeforeValidator(parse_octal)]
FilePath = Annotated[str, BeforeValidator(parse_path)]


class MountConfig(BaseSettings):
    """All that one mount is told.  Sizes are bytes, times seconds, modes integers.

    None means "not said": the code that uses the field knows what holds then.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_ignore_empty=True, validate_default=False
    )

    bucket: str
    prefix: str = ""
    """Without leading or trailing slash; "" is the whole bucket.  SOURCE's, or root_directory."""
    mountpoint: FilePath
    mount_flags: Annotated[tuple[str, ...], NoDecode] = ()
    """Flags such as nosuid and noatime, for the kernel."""

    endpoint: Annotated[str, BeforeValidator(parse_endpoint)] | None = Field(
        None, description="host or URL of the service; follows from region when not given"
    )
    region: Annotated[str, BeforeValidator(parse_region)] | None = Field(
        None, description="region id, as in cn-hangzhou"
    )
    internal: Switch = Field(False, description="use the region's internal endpoint")
    secure: Switch = Field(True, description="https, and not http")
    ca_file: FilePath | None = Field(
        None, description="PEM file with the CAs to trust instead of the system's"
    )
    passwd_file: FilePath | None = Field(None, description="file with [bucket:]ID:SECRET lines")
    credentials: Annotated[str, BeforeValidator(one_of(*CREDENTIAL_SOURCES))] = Field(
        "auto", description="where the access keys come from: " + ", ".join(CREDENTIAL_SOURCES)
    )
    credential_process: Annotated[str, BeforeValidator(parse_text)] | None = Field(
        None, description="command that prints access keys as JSON"
    )
    ram_role: Annotated[str, BeforeValidator(parse_text)] | None = Field(
        None, description="RAM role of this ECS instance, by name"
    )
    role_arn: Annotated[str, BeforeValidator(parse_text)] | None = Field(
        None, description="ARN of a RAM role to assume with the access keys that were found"
    )
    profile: Annotated[str, BeforeValidator(parse_text)] | None = Field(
        None, description="profile of a configuration file of ossutil or aliyun that has several"
    )
    encrypt: Annotated[str | None, BeforeValidator(parse_encrypt)] = Field(
        None,
        description="server-side encryption of all that is written: true (AES256), AES256, KMS, SM4, false",
    )
    kms_key_id: Annotated[str, BeforeValidator(parse_text)] | None = Field(
        None, description="KMS key that encrypts what is written; implies encrypt=KMS"
    )
    storage_class: Annotated[str, BeforeValidator(spelt_as(*STORAGE_CLASSES))] | None = Field(
        None, description="storage class of what is written: " + ", ".join(STORAGE_CLASSES)
    )
    acl: Annotated[str, BeforeValidator(spelt_as(*ACLS))] | None = Field(
        None, description="ACL of what is written: " + ", ".join(ACLS)
    )
    keep_acl: Annotated[str, BeforeValidator(one_of("auto", "always", "never"))] = Field(
        "auto",
        description="ACLs of objects outlive changes and renames, at one request each: auto (where the "
        "bucket is not private), always, never",
    )
    requester_pays: Switch = Field(
        False, description="these keys pay for the requests and the traffic, and not the bucket's owner"
    )
    traffic_limit: Annotated[int, BeforeValidator(parse_traffic)] | None = Field(
        None, description="the most that one upload or download request may move a second, 100KB to 100MB"
    )
    chunk_size: Annotated[
        int,
        BeforeValidator(parse_size),
        AfterValidator(size_between(MIN_CHUNK_SIZE, MAX_PART_SIZE, "10MB")),
    ] = Field(DEFAULT_CHUNK_SIZE, description="size of the parts that a file is uploaded in")
    root_directory: Annotated[str, BeforeValidator(parse_prefix)] | None = Field(
        None, description="prefix in the bucket that becomes the root; the same as the prefix of SOURCE"
    )
    ro: Switch = Field(False, description="mount read-only")
    uid: Annotated[int, BeforeValidator(parse_id(lambda name: pwd.getpwnam(name).pw_uid, "user"))] | None = (
        Field(None, description="owner of files that have none stored; the user who mounts when not given")
    )
    gid: Annotated[int, BeforeValidator(parse_id(lambda name: grp.getgrnam(name).gr_gid, "group"))] | None = (
        Field(None, description="group of files that have none stored; that of the user who mounts")
    )
    umask: Mode | None = Field(None, description="permission bits taken from what has no stored mode, octal")
    file_mode: Mode | None = Field(None, description="mode of files that have none stored, octal; 644")
    dir_mode: Mode | None = Field(None, description="mode of directories that have none stored, octal; 755")
    attrs: Annotated[str, BeforeValidator(one_of("head", "list"))] = Field(
        "head", description="head, or list: no modes, owners and times but the defaults, and no HEAD for them"
    )
    ignore_attrs: Switch = Field(
        False, description="with attrs=list: chmod, chown and utimes succeed and do nothing"
    )
    dtype: Annotated[str, BeforeValidator(one_of("guess", "exact"))] = Field(
        "guess",
        description="type of small files that nobody looked at, in a directory that is read: guess, or "
        "exact, at a HEAD for each",
    )
    allow_other: Switch = Field(False, description="let other users than the one who mounts in")
    nonempty: Switch = Field(False, description="mount over a directory that is not empty")
    ttl: Annotated[float, BeforeValidator(parse_seconds), AfterValidator(seconds_between(0, 86400))] = Field(
        5.0, description="how old a listing or a stat may be, in seconds"
    )
    negative_ttl: Annotated[
        float, BeforeValidator(parse_seconds), AfterValidator(seconds_between(0, 86400))
    ] = Field(1.0, description="how long an absent name may be believed to be absent, in seconds")
    memory: Annotated[
        int, BeforeValidator(parse_size), AfterValidator(size_between(MIN_MEMORY, None, "256MB"))
    ] = Field(
        default_factory=default_memory, description="budget of all buffers; a quarter of RAM, at most 1GB"
    )
    cache_dir: FilePath | None = Field(
        None, description="directory on a local disk where bytes that were read are kept"
    )
    cache_size: Annotated[
        int, BeforeValidator(parse_size), AfterValidator(size_between(MIN_CACHE, None, "10GB"))
    ] = Field(DEFAULT_CACHE, description="how much of the disk cache_dir may take")
    writeback: Switch = Field(
        False, description="close returns when a small file is safe in cache_dir; its upload follows"
    )
    writeback_size: Annotated[
        int, BeforeValidator(parse_size), AfterValidator(size_between(MIN_CACHE, None, "1GB"))
    ] = Field(DEFAULT_WRITEBACK, description="how much of the disk files may take that are to be uploaded")
    connections: Annotated[int, BeforeValidator(whole(1, 256))] = Field(
        64, description="how many requests may be on their way at a time"
    )
    flush: Annotated[str, BeforeValidator(one_of("auto", "always"))] = Field(
        "auto", description="auto, or always: commit at each close of a shared descriptor too"
    )
    delete: Annotated[str, BeforeValidator(one_of("batch", "sync"))] = Field(
        "batch", description="batch: objects go within a second, many at a time; sync: unlink waits"
    )
    excl: Annotated[str, BeforeValidator(one_of("local", "strict"))] = Field(
        "local", description="local, or strict: O_EXCL is decided by the service, between machines"
    )
    op_timeout: Annotated[
        float, BeforeValidator(parse_seconds), AfterValidator(seconds_between(1, 86400))
    ] = Field(60.0, description="how long a file operation may make no progress, in seconds")
    log_level: Annotated[str, BeforeValidator(one_of("debug", "info", "warning", "error"))] = Field(
        "info", description="debug, info, warning or error"
    )
    metrics: Annotated[str, BeforeValidator(parse_listen)] | None = Field(
        None, description="HOST:PORT where Prometheus may scrape the numbers of `ossfs status`"
    )
    price_put: Annotated[float, BeforeValidator(parse_price)] = Field(
        0.0, description="price of 10 000 PUT requests, for the estimate in `ossfs status`"
    )
    price_get: Annotated[float, BeforeValidator(parse_price)] = Field(
        0.0, description="price of 10 000 GET requests, for the same"
    )
    log_file: FilePath | None = Field(None, description="write the log there instead of stderr or syslog")
    state_dir: FilePath = Field(
        default_factory=default_state_dir, description="where the journal of unfinished uploads is kept"
    )
    config: FilePath | None = Field(None, description="TOML file with any of these options")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _spelling: str = PrivateAttr("")

    NOT_OPTIONS: ClassVar[frozenset[str]] = frozenset({"bucket", "prefix", "mountpoint", "mount_flags"})
    """Fields that SOURCE, MOUNTPOINT and mount(8) fill; neither options nor variables nor TOML keys."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, environment, TOML file: the order of pydantic-settings is first come, first served."""
        assert isinstance(init_settings, InitSettingsSource)
        environment = _EnvironmentSource(settings_cls)
        path = init_settings.init_kwargs.get("config") or os.environ.get(ENV_PREFIX + "CONFIG")
        if not path:
            return init_settings, environment
        return (
            init_settings,
            environment,
            _file_source(settings_cls, path),
        )

    @model_validator(mode="before")
    @classmethod
    def _one_prefix(cls, data: dict[str, Any]) -> dict[str, Any]:
        prefix, root = data.get("prefix") or "", data.get("root_directory") or ""
        try:
            prefix = parse_prefix(prefix)
            root = parse_prefix(root)
        except ValueError:
            return data  # said by the field's own check
        if prefix and root and prefix != root:
            raise Contradiction(
                f"SOURCE names the prefix {show(prefix)} and root_directory another one, {show(root)}; "
                "accepted: one of them, or both the same",
                "root_directory",
            )
        return {**data, "prefix": prefix or root}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not BUCKET_NAME.fullmatch(self.bucket):
            raise ConfigError(
                f"{show(self.bucket)} is no bucket name; accepted: 3 to 63 lower-case letters, digits and "
                "hyphens, beginning and ending with a letter or digit"
            )
        if self.ignore_attrs and self.attrs != "list":
            raise Contradiction(
                f"ignore_attrs=true contradicts attrs={self.attrs}, which stores them; accepted: "
                "ignore_attrs with attrs=list",
                "ignore_attrs",
                "attrs",
            )
        if self.kms_key_id is not None and "encrypt" in self.model_fields_set and self.encrypt != "KMS":
            raise Contradiction(
                f"kms_key_id={show(self.kms_key_id)} contradicts encrypt={self.encrypt or 'false'}; "
                "accepted: kms_key_id with encrypt=KMS or without encrypt",
                "kms_key_id",
                "encrypt",
            )
        if self.traffic_limit is not None and self.chunk_size * 8 > self.traffic_limit * 5 * self.op_timeout:
            most = int(self.traffic_limit * 5 * self.op_timeout) // 8 >> 20
            raise Contradiction(
                f"chunk_size={format_size(self.chunk_size)} takes too long at "
                f"traffic_limit={format_traffic(self.traffic_limit)}; accepted: chunk_size up to {most}MB "
                "with this limit, or a higher limit",
                "chunk_size",
                "traffic_limit",
                "op_timeout",
            )
        if self.writeback and self.cache_dir is None:
            raise ConfigError(
                "writeback needs a place for the files; accepted: -o writeback with -o cache_dir=DIR on a "
                "local disk, or neither"
            )
        if self.endpoint is None:
            if self.region is None:
                raise ConfigError(
                    "region is missing, and no endpoint either; accepted: -o region=cn-hangzhou or "
                    "-o endpoint=URL, OSSFS_REGION or OSSFS_ENDPOINT, or either in the config file"
                )
            return self
        parts = urlsplit(self.endpoint_url)
        said = self.model_fields_set
        if "secure" in said and parts.scheme != ("https" if self.secure else "http"):
            raise Contradiction(
                f"secure={str(self.secure).lower()} contradicts endpoint={show(self.endpoint)}; "
                "accepted: an endpoint of that scheme, or one without a scheme",
                "secure",
                "endpoint",
            )
        host = parts.hostname or ""
        if host.startswith(self.bucket + ".oss"):
            raise Contradiction(
                f"endpoint={show(self.endpoint)} begins with the bucket's name; accepted: "
                f"the endpoint alone, {host.removeprefix(self.bucket + '.')}",
                "endpoint",
            )
        public = _PUBLIC_HOST.fullmatch(host)
        if public and self.internal and not public[2]:
            raise Contradiction(
                f"internal=true contradicts endpoint={show(self.endpoint)}; accepted: internal=true with "
                f"region and no endpoint, or endpoint=oss-{public[1]}-internal.aliyuncs.com",
                "internal",
                "endpoint",
            )
        return self

    @property
    def endpoint_url(self) -> str:
        """Scheme, host and port of the service, without a slash at the end."""
        scheme = "https" if self.secure else "http"
        if self.endpoint is not None:
            return self.endpoint if "://" in self.endpoint else f"{scheme}://{self.endpoint}"
        return f"{scheme}://oss-{self.region}{'-internal' if self.internal else ''}.aliyuncs.com"

    @property
    def encryption(self) -> str | None:
        """The algorithm for all that is written: AES256, KMS or SM4."""
        return self.encrypt or ("KMS" if self.kms_key_id is not None else None)

    @property
    def signing_region(self) -> str | None:
        """The region for V4 signatures: what was said, or what a public endpoint's name says."""
        if self.region is not None:
            return self.region
        public = _PUBLIC_HOST.fullmatch(urlsplit(self.endpoint_url).hostname or "")
        return public[1] if public and REGION.fullmatch(public[1]) else None

    @property
    def source(self) -> str:
        """`bucket` or `bucket:/prefix`."""
        return f"{self.bucket}:/{self.prefix}" if self.prefix else self.bucket

    @property
    def fsname(self) -> str:
        """SOURCE as it was written: findmnt and df show it, and `mount -a` compares it with /etc/fstab."""
        return self._spelling or self.source

    @property
    def owner(self) -> int:
        """The uid of what has none stored."""
        return os.getuid() if self.uid is None else self.uid

    @property
    def group(self) -> int:
        """The gid of what has none stored."""
        return os.getgid() if self.gid is None else self.gid

    @property
    def default_file_mode(self) -> int:
        """Permission bits of a file that has none stored: file_mode, else by umask, else 644."""
        if self.file_mode is not None:
            return self.file_mode
        return 0o644 if self.umask is None else 0o666 & ~self.umask

    @property
    def default_dir_mode(self) -> int:
        """Permission bits of a directory that has none stored: dir_mode, else by umask, else 755."""
        if self.dir_mode is not None:
            return self.dir_mode
        return 0o755 if self.umask is None else 0o777 & ~self.umask

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value that is no default came from, for people: field name to a few words."""
        return dict(self._origins)

    def to_dict(self) -> dict[str, object]:
        """All that is in force, in the spelling that a TOML file would take it, and the endpoint's URL."""
        shown: dict[str, object] = {}
        for name, value in self.model_dump().items():
            if name in ("umask", "file_mode", "dir_mode") and value is not None:
                value = f"{value:03o}"
            elif name in ("chunk_size", "memory", "cache_size", "writeback_size"):
                value = format_size(value)
            elif name == "traffic_limit" and value is not None:
                value = format_traffic(value)
            shown[name] = list(value) if isinstance(value, tuple) else value
        shown["endpoint_url"] = self.endpoint_url
        return shown


def option_names() -> list[str]:
    """Every option, sorted."""
    return sorted(set(MountConfig.model_fields) - MountConfig.NOT_OPTIONS)


def _file_source(settings_cls: type[BaseSettings], path: str) -> InitSettingsSource:
    return InitSettingsSource(settings_cls, dict(read_file(parse_path(path)).values))


class _EnvironmentSource(EnvSettingsSource):
    """OSSFS_* variables of options only: OSSFS_BUCKET is none."""

    def __call__(self) -> dict[str, Any]:
        return {name: v for name, v in super().__call__().items() if name not in MountConfig.NOT_OPTIONS}


# --------------------------------------------------------------------------------------------------
# Sources.


OPTIONS_HINT: Final = "`ossfs mount --help` lists what is accepted"


def _check_name(name: str, where: str) -> None:
    """Refuse what is no option, by name only: its value may be somebody's secret."""
    if names_a_secret(name):
        raise ConfigError(f"{where}: {show(name)} is not accepted; {CREDENTIALS_HINT}")
    names = option_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"{where}: unknown option {show(name)}; {hint}{OPTIONS_HINT}")


def is_known(piece: str) -> bool:
    """Does that piece of an -o argument begin with a name that we know, or refuse by name?"""
    name = piece.partition("=")[0]
    return (
        name.startswith(("x-", "X-"))
        or name in {"rw", *MOUNT8_WORDS, *KERNEL_FLAGS, *option_names()}
        or names_a_secret(name)
    )


def parse_options(arguments: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The -o arguments as (options by name, flags for the kernel).  Of two, the last one counts."""
    options: dict[str, Any] = {}
    flags: dict[str, None] = {}
    for piece in (piece for argument in arguments for piece in split_options(argument)):
        name, equals, value = piece.partition("=")
        if name.startswith(("x-", "X-")) or name in MOUNT8_WORDS:
            continue
        if not equals and name == "rw":
            options["ro"] = False
        elif not equals and name in KERNEL_FLAGS:
            flags[name] = None
        else:
            _check_name(name, "-o")
            if not equals and name not in _FLAG_OPTIONS:
                raise ConfigError(f"-o {name} has no value; accepted: {name}=VALUE, {_describe(name)}")
            options[name] = value if equals else True
    return options, tuple(flags)


_FLAG_OPTIONS: Final = frozenset(
    name for name, field in MountConfig.model_fields.items() if field.annotation is bool
) | {"encrypt"}
"""Options whose bare name means true."""


def _describe(name: str) -> str:
    return MountConfig.model_fields[name].description or ""


def read_file(path: str) -> TomlFile:
    """The options of a TOML file.  A path in it is relative to the file's own directory."""
    found = tomlfile.read(path)
    values = dict(found.values)
    for name, value in values.items():
        where = found.place(name)
        _check_name(name, where)
        if name == "config":
            raise ConfigError(f"{where}: config cannot be in a config file; accepted: -o config=FILE")
        if isinstance(value, dict | list):
            raise ConfigError(f"{where}: {name} is a table or list; accepted: one value, {_describe(name)}")
        if name in _PATHS and isinstance(value, str) and value:
            values[name] = os.path.join(os.path.dirname(path), os.path.expanduser(value))
    return replace(found, values=values)


_PATHS: Final = frozenset({"ca_file", "passwd_file", "log_file", "state_dir", "cache_dir"})


def _check_environment() -> None:
    """Refuse a variable that is nearly an option: a typing error must not pass unseen.

    Other OSSFS_ names are left alone: they may be somebody else's.
    """
    names = option_names()
    for variable in os.environ:
        name = variable.removeprefix(ENV_PREFIX).lower()
        if not variable.startswith(ENV_PREFIX) or name in names or name == "runtime_dir":
            continue
        if names_a_secret(name):
            raise ConfigError(f"environment variable {variable} is not accepted; {CREDENTIALS_HINT}")
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        if near:
            raise ConfigError(
                f"environment variable {variable} is unknown; did you mean {ENV_PREFIX}{near[0].upper()}? "
                f"{OPTIONS_HINT}"
            )


def load_config(source: str, mountpoint: str, arguments: Iterable[str] = ()) -> MountConfig:
    """The configuration of `ossfs mount SOURCE MOUNTPOINT -o ARGUMENT...`, or a ConfigError of one line."""
    bucket, prefix = parse_source(source)
    if not mountpoint:
        raise ConfigError("MOUNTPOINT is empty; accepted: the path of an existing directory")
    options, flags = parse_options(arguments)
    _check_environment()
    try:
        if "config" in options:
            options["config"] = parse_path(options["config"])
    except ValueError as error:
        raise ConfigError(f"-o config={show(options['config'])} {error}") from None
    path = options.get("config") or os.environ.get(ENV_PREFIX + "CONFIG")
    file = read_file(parse_path(path)) if path else None
    origins = {name: file.place(name) for name in file.values} if file is not None else {}
    origins |= {
        name: f"environment variable {ENV_PREFIX}{name.upper()}"
        for name in option_names()
        if os.environ.get(f"{ENV_PREFIX}{name.upper()}")
    }
    origins |= dict.fromkeys(options, "-o")
    try:
        config = MountConfig(
            bucket=bucket, prefix=prefix, mountpoint=mountpoint, mount_flags=flags, **options
        )
    except ValidationError as error:
        raise ConfigError(_first_problem(error, origins)) from None
    except Contradiction as error:
        raise error.located(origins) from None
    config._origins.update(origins)
    config._spelling = source
    return config


def _first_problem(error: ValidationError, origins: Mapping[str, str]) -> str:
    problem = error.errors()[0]
    name = str(problem["loc"][0]) if problem["loc"] else "configuration"
    cause = problem.get("ctx", {}).get("error")
    what = str(cause) if cause is not None else f"is not accepted; accepted: {_describe(name)}"
    value = problem.get("input")
    text = show(value.lower() if isinstance(value, str) and value in ("True", "False") else value)
    where = origins.get(name, "")
    if name == "endpoint" and "@" in text:
        text = "..."  # it may hold a secret
    if where.startswith("environment"):
        return f"{where}={text} {what}"
    if where == "-o":
        return f"-o {name}={text} {what}"
    return f"{where}{': ' if where else ''}{name} = {text} {what}"
