"""The pages: log in, review, watch. Their scripts talk to the API; the first task comes with the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.api import NO_NUL, TheDesk, address, log_in, me, task_out
from crlhf_ray.feedback.desk.keys import key_table
from crlhf_ray.feedback.desk.security import (
    COOKIE,
    SHORTEST_PASSWORD,
    Annotator,
    Lead,
    csrf_token,
    same_origin,
    session_cookie,
)
from crlhf_ray.feedback.desk.store.models import Account, Program

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(Path(__file__).parent / "templates")

Short = Annotated[str, Form(max_length=200, pattern=NO_NUL)]


def page(
    request: Request, template: str, account: Account | None = None, status: int = 200, **context: Any
) -> Response:
    """A page from its template, for an account with what its forms need."""
    about = {"status": status, "account": account, "csrf": csrf_token(request) if account else "", **context}
    return templates.TemplateResponse(request, template, about, status_code=status)


def problem_page(request: Request, status: int, detail: str) -> Response:
    """What somebody at a browser is told instead of the page that they asked for."""
    detail = "Check the address, or go back to the start." if detail == "Not Found" else detail
    return page(request, "problem.html", status=status, detail=detail)


def _enter(desk: TheDesk, account: Account, target: str = "/") -> Response:
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE, session_cookie(desk.signer, account), max_age=desk.settings.session_seconds, httponly=True,
        samesite="lax", secure=desk.settings.secure_cookies,
    )  # fmt: skip
    return response


@router.get("/login")
def login_page(request: Request) -> Response:
    return page(request, "login.html")


@router.post("/login", dependencies=[Depends(same_origin)])
def login(request: Request, name: Short, password: Short, desk: TheDesk) -> Response:
    account = log_in(desk, name, password, address(request))
    if account is None:
        return page(
            request,
            "login.html",
            status=401,
            problem="Name and password do not fit, or the account is suspended.",
            name=name,
        )
    return _enter(desk, account)


@router.get("/invite/{token}")
def invite_page(request: Request, token: str) -> Response:
    return page(request, "invite.html", token=token, shortest=SHORTEST_PASSWORD)


@router.post("/invite/{token}", dependencies=[Depends(same_origin)])
def accept_invite(request: Request, token: str, name: Short, password: Short, desk: TheDesk) -> Response:
    desk.limiter.check("login", address(request), desk.settings.logins_a_minute)
    try:
        account = desk.accept_invite(token, name, password)
    except ConfigError as error:
        return page(
            request, "invite.html", status=400, token=token, shortest=SHORTEST_PASSWORD, problem=str(error), name=name
        )
    return _enter(desk, account)


@router.get("/password/{token}")
def password_page(request: Request, token: str) -> Response:
    return page(request, "password.html", token=token, shortest=SHORTEST_PASSWORD)


@router.post("/password/{token}", dependencies=[Depends(same_origin)])
def choose_password(request: Request, token: str, password: Short, desk: TheDesk) -> Response:
    desk.limiter.check("login", address(request), desk.settings.logins_a_minute)
    try:
        account = desk.choose_password(token, password)
    except ConfigError as error:
        return page(request, "password.html", status=400, token=token, shortest=SHORTEST_PASSWORD, problem=str(error))
    return _enter(desk, account)


@router.get("/")
def home(account: Annotator) -> Response:
    return RedirectResponse("/work" if account.role == "annotator" else "/lead", 303)


@router.post("/logout")
def logout(request: Request, account: Annotator) -> Response:
    if request.state.nonce is not None:  # a token's has none
        request.app.state.logged_out.add(request.state.nonce)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/work")
def work_page(request: Request, account: Annotator, desk: TheDesk, later: BackgroundTasks) -> Response:
    task = task_out(desk, account, desk.next_task(account))
    return page(request, "work.html", account, task=task, keys=key_table(account.keys), me=me(account, desk))


@router.get("/lead")
def lead_page(request: Request, account: Lead) -> Response:
    return page(request, "lead.html", account)


@router.get("/lead/programs")
def programs_page(request: Request, account: Lead) -> Response:
    return page(request, "programs.html", account)


@router.get("/lead/programs/{item_id}")
def program_page(request: Request, item_id: str, account: Lead, desk: TheDesk) -> Response:
    with desk.database.read() as session:
        if session.get(Program, item_id) is None:
            raise HTTPException(404, f"There is no program {item_id!r}.")
    return page(request, "program.html", account, item_id=item_id)


@router.get("/lead/disagreements")
def disagreements_page(request: Request, account: Lead) -> Response:
    return page(request, "disagreements.html", account)


@router.get("/lead/people")
def people_page(request: Request, account: Lead) -> Response:
    return page(request, "people.html", account)
