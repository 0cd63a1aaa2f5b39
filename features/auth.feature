Feature: Only who has a token is answered
  A server with tokens asks for one, for what it allows, and tells nobody.

  Scenario Outline: Who may do what
    Given a server with the tiny model and tokens
    When I ask for <what> with <token>
    Then the status is <status>

    Examples:
      | what       | token            | status |
      | an answer  | no token         | 401    |
      | an answer  | an unknown token | 401    |
      | an answer  | the read token   | 403    |
      | an answer  | the infer token  | 200    |
      | the models | no token         | 401    |
      | the models | the read token   | 200    |
      | the status | the infer token  | 403    |
      | the status | the read token   | 200    |
      | its health | no token         | 200    |
      | its metrics| no token         | 200    |

  Scenario: An operator's command without the right token says so
    Given a server with the tiny model and tokens
    When I drain the pool with orch and the read token
    Then orch says that the token does not allow it

  Scenario: Without tokens this machine needs none
    Given a server with the tiny model
    When I ask for an answer with an unknown token
    Then the status is 200

  Scenario: This machine may be let in without
    Given a server with the tiny model and tokens that are optional here
    When I ask for an answer with no token
    Then the status is 200

  Scenario: A token stands in no log
    Given a server with the tiny model and tokens
    When I ask for an answer with the infer token
    Then its log names the caller by its token's digest and holds no token

  Scenario: Nobody beyond this machine is served without a token
    Then a server on all addresses without a token refuses to start with 40301
    And a server whose token has 15 characters refuses to start
