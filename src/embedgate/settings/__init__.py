"""Settings of the gateway: one typed tree, a module for each part of it."""

from embedgate.settings.keys import KeySettings, OwnKeySettings
from embedgate.settings.storage import MIN_CACHE_DISK_BYTES, CacheSettings, IdempotencySettings, StorageSettings
from embedgate.settings.tree import (
    MIN_VERIFY_PAUSE_S,
    AccessSettings,
    CatalogSettings,
    LimitSettings,
    LocalModelSettings,
    LocalSettings,
    LogSettings,
    ProviderSettings,
    ServerSettings,
    Settings,
    TransportSettings,
    UpstreamSettings,
)

__all__ = [
    "MIN_CACHE_DISK_BYTES",
    "MIN_VERIFY_PAUSE_S",
    "AccessSettings",
    "CacheSettings",
    "CatalogSettings",
    "IdempotencySettings",
    "KeySettings",
    "LimitSettings",
    "LocalModelSettings",
    "LocalSettings",
    "LogSettings",
    "OwnKeySettings",
    "ProviderSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TransportSettings",
    "UpstreamSettings",
]
