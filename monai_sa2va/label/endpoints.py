# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Addresses that MONAI Label's server doesn't have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

__all__ = ["make_router"]


def make_router(instance: Callable[[], Any]) -> APIRouter:
    """Make the router.

    Args:
        instance: gives the MONAI Label app.
    """
    router = APIRouter(tags=["Sa2VA"])

    @router.get("/health", summary="Whether the server answers, and with which weights")
    def health() -> dict[str, Any]:
        app = instance()
        return {"status": "ok", **app.model.about(), "models": app.infer_names()}

    reader, admin = (
        [Depends(RBAC(role))] for role in (settings.MONAI_LABEL_AUTH_ROLE_USER, settings.MONAI_LABEL_AUTH_ROLE_ADMIN)
    )

    @router.get("/sa2va/adapters", summary="What was learnt from which labels, and what answers", dependencies=reader)
    def adapters() -> dict[str, Any]:
        found: dict[str, Any] = instance().learnt.about()
        return found

    @router.post("/sa2va/rollback", summary="Let what answered before the last training answer", dependencies=admin)
    def rollback() -> dict[str, Any]:
        return {"active": instance().learnt.rollback()}

    return router
